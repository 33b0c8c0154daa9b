"""Signed webhooks: notes an event, and delivers it until its receiver takes it or a day is over.

Knows Redis and the guarded client, not what ended. An event is delivered at least once, always
under the same `webhook-id`.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec
from redis.asyncio import Redis

from api.call import Call
from api.config import ApiConfig
from api.hooks.callback import check_settings
from api.hooks.outbound import Outbound, Undelivered
from api.hooks.signing import signed_headers
from workers import contract

logger = logging.getLogger(__name__)

HOOK_KIND = "hook"  # of the chores
DEAD_HOOKS_KEY = "dead:hooks"  # ZSET: subject -> when its webhook was given up, in ms
FIRST_RETRY_S = 5.0
MAX_RETRY_S = 3600.0
GIVE_UP_S = 86400.0  # after the event
KEEP_S = 2 * 86400
KEEP_DEAD_S = 7 * 86400
MAX_DEAD = 10_000
MAX_IN_FLIGHT = 8  # of the places that chores have: slow receivers must leave some to others
MAX_PER_TENANT = 6  # whose receivers are all slow
MAX_PER_HOST = 4
_BUSY_S = (5.0, 15.0)
_GONE = 410
_USER_AGENT = "Tramontane-Webhooks"

State = Literal["waiting", "delivered", "gone", "dead"]


def hook_key(subject: str) -> str:
    """HASH with expiry: the event that `subject`, a job or a batch, ended with; its delivery."""
    return f"hook:{subject}"


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """An event to tell `url` of. `occasion` parts it from other events of the same subject."""

    subject: str
    type: str
    url: str
    tenant: str
    occasion: str
    created_s: int


class _Hook(msgspec.Struct, frozen=True, kw_only=True):
    """What Redis knows of an event."""

    id: str
    type: str
    url: str
    tenant: str
    created_s: int
    state: State
    attempts: int
    error: str = ""


class _Outcome(NamedTuple):
    """How an attempt ended, and when the next one is due."""

    state: State
    error: str = ""
    again_s: float | None = None


class Webhooks:
    """One API process's deliveries; `deliver` is the handler of the chores `hook:{subject}`.

    `secret_of` gives a tenant's own secret, or nothing. Raises SettingError.
    """

    def __init__(
        self,
        redis: Redis,
        call: Call,
        config: ApiConfig,
        secret_of: Callable[[str], str],
        outbound: Outbound | None = None,
    ) -> None:
        check_settings(config)
        self._redis = redis
        self._call = call
        self._secret_of = secret_of
        self._secret = config.webhook_secret
        self._outbound = outbound or Outbound(allow_private=config.webhook_allow_private)
        self._note_script, self._tried_script = (
            redis.register_script(contract.load_script(name)) for name in ("hook", "hook_tried")
        )
        self._in_flight: Counter[tuple[str, str]] = Counter()  # by host and tenant

    async def announce(self, notice: Notice) -> None:
        """Have an event delivered; again for the same occasion changes nothing. Raises ApiError."""
        names = [hook_key(notice.subject), contract.CHORES_KEY]
        fields = {"type": notice.type, "url": notice.url, "tenant": notice.tenant}
        args: list[str | int] = [
            notice.occasion,
            f"{HOOK_KIND}:{notice.subject}",
            contract.CHORES_CHANNEL,
            KEEP_S,
            f"wh_{notice.subject}",
            f"wh_{notice.subject}_{notice.occasion}",
            *("created_s", notice.created_s),
            *(item for pair in fields.items() for item in pair),
        ]
        await self._call(lambda: self._note_script(names, args))

    async def deliver(self, subject: str) -> float | None:
        """Try once. Returns the seconds until the next try, None if there is none.

        Raises ApiError while Redis is away.
        """
        hook = await self._read(subject)
        if hook is None or hook.state != "waiting":
            return None
        host = urlsplit(hook.url).netloc
        if not self._has_place(host, hook.tenant):
            return random.uniform(*_BUSY_S)
        self._in_flight[host, hook.tenant] += 1
        try:
            outcome = await self._attempt(subject, hook)
        finally:
            self._in_flight -= Counter(((host, hook.tenant),))  # forgets what is at zero
        _log(hook, host, outcome)
        is_current = await self._note(subject, hook, outcome)
        return outcome.again_s if is_current else 0.0

    def _has_place(self, host: str, tenant: str) -> bool:
        counts = self._in_flight.items()
        return (
            self._in_flight.total() < MAX_IN_FLIGHT
            and sum(n for (_, whose), n in counts if whose == tenant) < MAX_PER_TENANT
            and sum(n for (where, _), n in counts if where == host) < MAX_PER_HOST
        )

    async def _read(self, subject: str) -> _Hook | None:
        fields = await self._run("HGETALL", hook_key(subject))
        texts = {name.decode(): value.decode() for name, value in fields.items()}
        return msgspec.convert(texts, _Hook, strict=False) if texts else None

    async def _attempt(self, subject: str, hook: _Hook) -> _Outcome:
        key = hook_key(subject)  # counted before, so that a try that takes us down counts too
        await self._run("HINCRBY", key, "attempts", 1)
        body = _body(subject, hook)
        try:
            secret = self._secret_of(hook.tenant) or self._secret
            headers = signed_headers(secret, hook.id, int(time.time()), body)
            status = await self._outbound.post(hook.url, headers | _HEADERS, body)
        except (Undelivered, ValueError) as error:  # BadUrl is one
            return _next_try(hook, str(error))
        if 200 <= status < 300:
            return _Outcome("delivered")
        if status == _GONE:
            return _Outcome("gone", f"HTTP {status}")
        return _next_try(hook, f"HTTP {status}")

    async def _run(self, *command: str | int) -> Any:
        run: Callable[..., Awaitable[Any]] = self._redis.execute_command
        return await self._call(lambda: run(*command))

    async def _note(self, subject: str, hook: _Hook, outcome: _Outcome) -> bool:
        """Write the outcome down. False if another event has taken this one's place meanwhile."""
        names = [hook_key(subject), DEAD_HOOKS_KEY]
        ttl_s = KEEP_DEAD_S if outcome.state == "dead" else KEEP_S
        args: list[str | int] = [
            *(hook.id, outcome.state, outcome.error),
            *(ttl_s, subject, MAX_DEAD),
        ]
        return bool(await self._call(lambda: self._tried_script(names, args)))


_HEADERS = {"content-type": "application/json", "user-agent": _USER_AGENT}


def _body(subject: str, hook: _Hook) -> bytes:
    """The event as OpenAI shapes it; the same bytes at every try."""
    return msgspec.json.encode(
        {
            "id": "evt_" + hook.id.removeprefix("wh_"),
            "object": "event",
            "created_at": hook.created_s,
            "type": hook.type,
            "data": {"id": subject},
        }
    )


def _next_try(hook: _Hook, error: str) -> _Outcome:
    """When to try again after a failure: later and later, then never."""
    delay_s = min(MAX_RETRY_S, FIRST_RETRY_S * 2 ** min(hook.attempts, 30))
    delay_s *= random.uniform(1.0, 1.3)  # so that receivers that come back are not stormed
    if time.time() + delay_s > hook.created_s + GIVE_UP_S:
        return _Outcome("dead", error)
    return _Outcome("waiting", error, delay_s)


def _log(hook: _Hook, host: str, outcome: _Outcome) -> None:
    what, tries = f"webhook {hook.id} to {host}", hook.attempts + 1
    if outcome.state == "delivered":
        logger.info("%s was delivered at try %d", what, tries)
    elif outcome.again_s is not None:
        logger.info("%s failed (%s), again in %.0f s", what, outcome.error, outcome.again_s)
    else:
        logger.warning("%s is given up after %d tries: %s", what, tries, outcome.error)
