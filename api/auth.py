"""Who sent a request, and may they: API keys, tenants, and the gate before every route.

Knows neither where keys are kept nor what a route does.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from api.errors import ApiError
from workers.contract import ServiceClass

# For probes and load balancers, which have no key, and for people who read.
PUBLIC_PATHS = frozenset({"/", "/health", "/live", "/ready", "/openapi.json", "/docs"})
_ADMIN = ("/admin/", "/metrics/", "/v1/re_isq/", "/re_isq/")  # the whole fleet's business
_HINT_CHARS = 4  # of a wrong key, so that its owner can tell which one it was
_MIN_HINTED = 12  # of a shorter key four characters would be too much

_MISSING = (
    "You didn't provide an API key. Send it in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)


class Tenant(msgspec.Struct, frozen=True):
    """Whose requests these are, and what they may use. A limit of 0 is none."""

    name: str = ""
    service_class: ServiceClass = "default"
    requests_per_min: int = 0
    tokens_per_min: int = 0
    max_jobs: int = 0  # unfinished ones at a time
    is_admin: bool = False
    webhook_url: str = ""
    webhook_secret: str = ""


ANONYMOUS = Tenant(is_admin=True)  # everybody, where no keys are configured
_STRANGER = Tenant()  # whoever asks for what is public, where keys are


class Key(NamedTuple):
    """An API key, of which only the SHA-256 is known, and the tenant as this key makes it."""

    digest: bytes
    tenant: Tenant


def digest_of(key: bytes) -> bytes:
    """What is kept of a key. Keys are random and long, so a plain SHA-256 hides them."""
    return hashlib.sha256(key).digest()


class Keys:
    """The keys there are."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = tuple(keys)
        self._tenants = {key.tenant.name: key.tenant for key in reversed(self._keys)}

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, key: bytes) -> Tenant | None:
        """The tenant of a key. Takes as long for a wrong key as for any right one."""
        digest = digest_of(key)
        found = None
        for known in self._keys:
            if hmac.compare_digest(known.digest, digest):
                found = known.tenant
        return found

    def tenant(self, name: str) -> Tenant | None:
        """A tenant by its name: limits and webhook are the tenant's; class and rights are those
        of its first key.
        """
        return self._tenants.get(name)


class Gate:
    """Lets requests in. `keys` gives those of this moment, None where none are configured."""

    def __init__(self, keys: Callable[[], Keys | None]) -> None:
        self._keys = keys

    def admit(self, path: str, header: Callable[[str], str | None]) -> Tenant:
        """The tenant of a request to `path`; `header` gives a header's value by its name.

        Raises ApiError `invalid_api_key`.
        """
        keys = self._keys()
        if keys is None:
            return ANONYMOUS
        if path in PUBLIC_PATHS:
            return _STRANGER
        key = _presented(header)
        if not key:
            raise ApiError("invalid_api_key", _MISSING)
        tenant = keys.find(key.encode("latin-1", "replace"))
        if tenant is None:
            raise ApiError("invalid_api_key", f"Incorrect API key provided{_hint(key)}.")
        return tenant

    def tenant(self, name: str) -> Tenant:
        """A tenant as it is configured now, for work that goes on without its request; one that
        has no keys any more has neither limits nor rights.
        """
        keys = self._keys()
        return (keys and keys.tenant(name)) or Tenant(name)


def check_rights(tenant: Tenant, template: str) -> None:
    """Raise ApiError `permission_denied` if the route `template` is not for this tenant.

    The route, not the path: a router may take several paths for one route.
    """
    if f"{template}/".startswith(_ADMIN) and not tenant.is_admin:
        raise ApiError("permission_denied", "This route needs an admin's API key.")


def _presented(header: Callable[[str], str | None]) -> str:
    scheme, _, token = (header("authorization") or "").strip().partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return bearer or header("x-api-key") or header("api-key") or ""


def _hint(key: str) -> str:
    """The end of a key, if that gives nothing away and can be shown."""
    end = key[-_HINT_CHARS:]
    is_shown = len(key) >= _MIN_HINTED and end.isascii() and end.isprintable()
    return f": ***{end}" if is_shown else ""
