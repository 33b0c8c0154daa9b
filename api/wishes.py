"""What a request's headers ask for, beside its body: a deadline, a class, an answer later. Pure.

Knows no queue and no tenant.
"""

import hashlib
import re
from collections.abc import Callable
from typing import NamedTuple, get_args

from api.errors import ApiError
from workers.contract import ServiceClass

MAX_WAIT_S = 60  # a connection should not be silent for longer
MAX_KEY_LENGTH = 255

PRIORITY = "x-priority"
DEADLINE = "x-deadline-ms"
CANCEL_AFTER = "Cancel-After"
PREFER = "Prefer"
IDEMPOTENCY_KEY = "Idempotency-Key"

Header = Callable[[str], str | None]

_CLASSES: tuple[ServiceClass, ...] = get_args(ServiceClass)
# So many digits that no sum of times overflows anything.
_MILLISECONDS = re.compile(r"-?\d{1,15}", re.ASCII)
_SECONDS = re.compile(r"-?\d{1,12}", re.ASCII)
_DURATION = re.compile(r"(?=\d)(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)
_WAIT = re.compile(r"wait\s*=\s*(\d{1,9})", re.ASCII)


class Wishes(NamedTuple):
    """What the headers ask for; the defaults ask for nothing.

    `deadline_ms` counts from the request's arrival. `wait_s` is how long a client that wants its
    answer later waits for it all the same. `digest` names the body that came with the key.
    """

    service_class: ServiceClass | None = None
    deadline_ms: int | None = None
    is_async: bool = False
    wait_s: int = 0
    idempotency_key: str = ""
    digest: str = ""

    def with_body(self, route: str, tenant: str, body: bytes) -> "Wishes":
        """The same, of a request with this body."""
        if not self.idempotency_key:
            return self
        return self._replace(digest=digest_of(route, tenant, body))


def read_wishes(header: Header) -> Wishes:
    """The wishes of a request; `header` gives a header's value by its name.

    Raises ApiError 400 for a header that makes no sense, `deadline_exceeded` for a deadline that
    has passed.
    """
    is_async, wait_s = _preferences(header(PREFER) or "")
    return Wishes(
        service_class=_service_class(header(PRIORITY)),
        deadline_ms=_deadline_ms(header),
        is_async=is_async,
        wait_s=wait_s,
        idempotency_key=read_key(header),
    )


def digest_of(route: str, tenant: str, body: bytes) -> str:
    """What a request has to have in common with another to be the same."""
    digest = hashlib.sha256()
    for part in (route.encode(), tenant.encode()):
        digest.update(len(part).to_bytes(4, "big") + part)
    digest.update(body)
    return digest.hexdigest()


def cancel_after_ms(text: str) -> int:
    """`30`, `30s`, `5m`, `1h` or `1m30s` in ms. Raises ApiError."""
    if _SECONDS.fullmatch(text):
        return int(text) * 1000
    match = _DURATION.fullmatch(text)
    if match is None:
        raise _bad(CANCEL_AFTER, "is a number of seconds or a duration such as 30s, 5m or 1m30s")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((hours * 60 + minutes) * 60 + seconds) * 1000


def _deadline_ms(header: Header) -> int | None:
    times: list[int] = []
    if (text := header(DEADLINE)) is not None:
        if not _MILLISECONDS.fullmatch(text.strip()):
            raise _bad(DEADLINE, "is a whole number of milliseconds from now")
        times.append(int(text))
    if (text := header(CANCEL_AFTER)) is not None:
        times.append(cancel_after_ms(text.strip()))
    if not times:
        return None
    if min(times) <= 0:
        raise deadline_exceeded()
    return min(times)


def deadline_exceeded() -> ApiError:
    """The error of a request whose time is up."""
    return ApiError("deadline_exceeded", "The deadline has passed.")


def _service_class(text: str | None) -> ServiceClass | None:
    if text is None:
        return None
    for one in _CLASSES:
        if text.strip().lower() == one:
            return one
    raise _bad(PRIORITY, f"is one of {', '.join(_CLASSES)}")


def _preferences(text: str) -> tuple[bool, int]:
    """RFC 7240: preferences that nobody knows are ignored."""
    names = [part.partition(";")[0].strip().lower() for part in text.split(",")]
    waits = [int(match[1]) for name in names if (match := _WAIT.fullmatch(name))]
    return "respond-async" in names, min(waits[0] if waits else 0, MAX_WAIT_S)


def read_key(header: Header) -> str:
    """The Idempotency-Key of a request, empty if it has none. Raises ApiError 400."""
    text = header(IDEMPOTENCY_KEY)
    if text is None:
        return ""
    if not (1 <= len(text) <= MAX_KEY_LENGTH and text.isascii() and text.isprintable()):
        raise _bad(IDEMPOTENCY_KEY, f"has 1 to {MAX_KEY_LENGTH} printable ASCII characters")
    return text


def _bad(name: str, what: str) -> ApiError:
    return ApiError("invalid_value", f"The header '{name}' {what}.", name)
