"""The API keys that the settings name: from a TOML file, read again when it changes, and from the
environment. Knows no request.
"""

import logging
import os
import re
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from api.auth import Key, Keys, Tenant, digest_of
from api.config import ApiConfig
from api.hooks.signing import secret_key
from api.hooks.url import BadUrl, parse_url
from workers.contract import ServiceClass
from workers.environment import SettingError

logger = logging.getLogger(__name__)

HASH_PREFIX = "sha256:"
_ADMIN_PREFIX = "admin:"
_ENV_TENANT = "default"
_DIGEST_BYTES = 32
_LOOK_S = 1.0  # time between two looks at the file

# Tenants' names become parts of Redis keys, so no name may hold what parts them.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
Limit = Annotated[int, msgspec.Meta(ge=0, le=10**12)]

# What belongs to a tenant and not to one of its keys.
_SHARED = ("requests_per_min", "tokens_per_min", "max_jobs", "webhook_url", "webhook_secret")


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[keys]]` of the file."""

    hash: str
    tenant: str
    service_class: ServiceClass = "default"
    requests_per_min: Limit = 0
    tokens_per_min: Limit = 0
    max_jobs: Limit = 0
    admin: bool = False
    webhook_url: str = ""
    webhook_secret: str = ""


class KeyWatch:
    """The keys of a running API process. A file that becomes bad leaves the keys as they were."""

    def __init__(self, config: ApiConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._looked_s = clock()
        # before the file is read, so that a change in between is seen at the next look
        self._version = _version(config.api_keys_file)
        self._keys = configured_keys(config)

    def keys(self) -> Keys | None:
        """The keys of this moment, None if none are configured."""
        now_s = self._clock()
        if self._config.api_keys_file and now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            self._look()
        return self._keys

    def _look(self) -> None:
        version = _version(self._config.api_keys_file)
        if version == self._version:
            return
        self._version = version
        try:
            self._keys = configured_keys(self._config)
        except SettingError as error:
            logger.error("the API keys stay as they were: %s", error)
        else:
            logger.info("the API keys were read again")


def configured_keys(config: ApiConfig) -> Keys | None:
    """The keys of the file and the environment together, None if the settings name neither.

    Raises SettingError, which never shows a key.
    """
    if not (config.api_keys or config.api_keys_file):
        return None
    keys: list[Key] = []
    if config.api_keys_file:
        keys += _read_file(Path(config.api_keys_file))
    if config.api_keys:
        keys += _environment_keys(config.api_keys)
    _check(keys)
    _check_webhooks(keys, config)
    return Keys(keys)


def hash_text(key: str) -> str:
    """A key as the file has it, `sha256:…`."""
    return HASH_PREFIX + digest_of(key.encode()).hex()


def parse_file(text: str) -> list[Key]:
    """The keys in a TOML file's text. Raises ValueError with one sentence."""
    document = tomllib.loads(text)
    if unknown := sorted(document.keys() - {"keys"}):
        raise ValueError(f"there is a {unknown[0]!r} where only [[keys]] may stand")
    entries = document.get("keys")
    if not entries or not isinstance(entries, list):
        raise ValueError("it has no [[keys]]")
    return [_key(number, entry) for number, entry in enumerate(entries, 1)]


def _read_file(path: Path) -> list[Key]:
    try:
        return parse_file(path.read_text("utf-8"))
    except OSError as error:
        raise SettingError(f"the API key file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, not TOML, or not what it should say
        raise SettingError(f"the API key file {path} is refused: {error}") from error


def _key(number: int, fields: Any) -> Key:
    where = f"[[keys]] number {number}"
    if isinstance(fields, dict) and "key" in fields:
        raise ValueError(f"{where} has a plain key; give its `hash`, which {_HOW}")
    try:
        entry = msgspec.convert(fields, _Entry)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {str(error).replace('`$.', '`')}") from error
    if (digest := _digest(entry.hash)) is None:
        raise ValueError(f"{where} has no good `hash`: {_SHAPE}, which {_HOW}")
    if sentence := _tenant_fault(entry) or _webhook_fault(entry):
        raise ValueError(f"{where}: {sentence}")
    return Key(digest, _tenant(entry))


_HOW = "`tramontane keys hash` makes of it; plain keys are not kept in the file"
_SHAPE = "it is `sha256:` and 64 hexadecimal digits"


def _tenant(entry: _Entry) -> Tenant:
    return Tenant(
        entry.tenant,
        entry.service_class,
        entry.requests_per_min,
        entry.tokens_per_min,
        entry.max_jobs,
        entry.admin,
        entry.webhook_url,
        entry.webhook_secret,
    )


def _digest(text: str) -> bytes | None:
    """The digest in `sha256:…`, None if there is no such."""
    try:
        digest = bytes.fromhex(text.removeprefix(HASH_PREFIX))
    except ValueError:
        return None
    is_good = text.startswith(HASH_PREFIX) and len(digest) == _DIGEST_BYTES
    return digest if is_good else None


def _tenant_fault(entry: _Entry) -> str:
    if _NAME.fullmatch(entry.tenant):
        return ""
    return "`tenant` must be 1 to 64 letters, digits, dots, dashes and underscores"


def _webhook_fault(entry: _Entry) -> str:
    """What is wrong with an entry's webhook, empty if nothing."""
    try:
        if entry.webhook_secret:
            secret_key(entry.webhook_secret)
        if entry.webhook_url:
            parse_url(entry.webhook_url, allow_private=True)  # the settings may forbid it
    except BadUrl as error:
        return f"`webhook_url` {error}"
    except ValueError as error:
        return f"`webhook_secret` is refused: {error}"
    return ""


def _environment_keys(text: str) -> Iterator[Key]:
    items = [item for item in map(str.strip, text.split(",")) if item]
    if not items:
        raise SettingError("TRAMONTANE_API_KEYS has no key: unset it to let everybody in")
    for item in items:
        is_admin = item.startswith(_ADMIN_PREFIX)
        tenant = Tenant(_ENV_TENANT, is_admin=is_admin)
        yield Key(_environment_digest(item.removeprefix(_ADMIN_PREFIX)), tenant)


def _environment_digest(item: str) -> bytes:
    if not item.startswith(HASH_PREFIX):
        return digest_of(os.fsencode(item))
    if (digest := _digest(item)) is None:
        raise SettingError(f"TRAMONTANE_API_KEYS has a bad hash: {_SHAPE}")
    return digest


def _check(keys: Sequence[Key]) -> None:
    """Raise SettingError for a key that is there twice, and for a tenant's keys that disagree."""
    if len({key.digest for key in keys}) < len(keys):
        raise SettingError("the same API key is configured twice: leave one of the two")
    firsts: dict[str, Tenant] = {}
    for _, tenant in keys:
        first = firsts.setdefault(tenant.name, tenant)
        for field in _SHARED:
            if getattr(first, field) != getattr(tenant, field):
                raise SettingError(f"the API keys of tenant {tenant.name!r} disagree on {field}")


def _check_webhooks(keys: Sequence[Key], config: ApiConfig) -> None:
    for tenant in (key.tenant for key in keys if key.tenant.webhook_url):
        if not (tenant.webhook_secret or config.webhook_secret):
            raise SettingError(
                f"tenant {tenant.name!r} has a webhook_url and nothing to sign with: give its "
                "entries a webhook_secret, or set TRAMONTANE_WEBHOOK_SECRET"
            )
        try:
            parse_url(tenant.webhook_url, allow_private=config.webhook_allow_private)
        except BadUrl as error:
            raise SettingError(f"the webhook_url of tenant {tenant.name!r} {error}") from error


def _version(path: str) -> tuple[int, ...] | None:
    """Differs when the file does; None while there is no file."""
    try:
        status = Path(path).stat() if path else None
    except OSError:
        return None
    return status and (status.st_mtime_ns, status.st_size, status.st_ino)
