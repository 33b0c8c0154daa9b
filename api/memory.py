"""Is there room in Redis for more work, and does it keep what it is given? Knows no job.

Redis is asked when work comes, once a second at most.
"""

import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import redis
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from api.call import Call
from api.errors import ApiError
from workers.redis_policy import SAFE, trouble

logger = logging.getLogger(__name__)

MAX_AGE_S = 1.0
START_TIMEOUT_S = 2.0  # a Redis that does not answer sooner is looked at when work comes
_SECTION = "memory"


class EvictingRedis(Exception):
    """A Redis that drops keys when it is full; the message says what to set."""


class Memory(NamedTuple):
    """What Redis says of itself; `max_bytes` 0: it has no bound, or does not tell."""

    used_bytes: int = 0
    max_bytes: int = 0
    policy: str = SAFE

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "Memory":
        """From the answer to INFO; what a managed server leaves out is taken for good."""
        return cls(
            int(info.get("used_memory", 0)),
            int(info.get("maxmemory", 0)),
            str(info.get("maxmemory_policy", SAFE)),
        )

    def is_full(self, max_fraction: float) -> bool:
        """True if more than `max_fraction` of the bound is in use."""
        return self.used_bytes >= self.max_bytes * max_fraction > 0


class MemoryGuard:
    """Refuses new work that Redis has no room for, or could lose."""

    def __init__(self, redis: Redis, call: Call, url: str, max_fraction: float) -> None:
        self._redis = redis
        self._call = call
        self._url = url
        self._max_fraction = max_fraction
        self._memory = Memory()
        self._looked_s = float("-inf")
        self._is_mute = False  # it does not let us look

    async def check(self) -> None:
        """Raise ApiError unless there is room for one more job."""
        await self.check_policy()
        if self._memory.is_full(self._max_fraction):
            raise full()

    async def check_policy(self) -> None:
        """Raise ApiError if Redis is away, or evicts."""
        await self._look()
        if self._memory.policy != SAFE:
            raise ApiError("queue_unavailable", "The queue's Redis evicts keys: it loses jobs.")

    async def _look(self) -> None:
        now_s = time.monotonic()
        if self._is_mute or now_s - self._looked_s < MAX_AGE_S:
            return
        before_s, self._looked_s = self._looked_s, now_s  # those who come meanwhile do not wait
        try:
            info = await self._call(lambda: self._redis.info(_SECTION))
        except ResponseError as error:
            self._is_mute = True
            logger.warning("Redis does not tell how much memory it uses: %s", error)
            return
        except BaseException:
            self._looked_s = before_s
            raise
        self._note(Memory.of(info))

    def _note(self, memory: Memory) -> None:
        text = trouble(memory.policy, self._url)
        if text and memory.policy != self._memory.policy:
            logger.error("%s", text)
        self._memory = memory


def full() -> ApiError:
    """The error of new work when Redis is (almost) full."""
    return ApiError("queue_memory_full", "The queue's memory is full; try again soon.")


def check_at_start(url: str) -> None:
    """Raise EvictingRedis if the server at `url` would drop jobs; one that is away is not asked."""
    timeouts = {"socket_timeout": START_TIMEOUT_S, "socket_connect_timeout": START_TIMEOUT_S}
    with contextlib.closing(redis.Redis.from_url(url, **timeouts)) as client:
        try:
            memory = Memory.of(client.info(_SECTION))  # type: ignore[arg-type]
        except (RedisError, OSError):
            return
    if text := trouble(memory.policy, url):
        raise EvictingRedis(text)
