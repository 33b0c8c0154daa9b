"""The worker's line to Redis: a pool, and scripts that outlast an outage. Knows no job.

Commands may run twice when a reply is lost; every script here bears that.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import redis.exceptions
from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from workers.contract import load_script
from workers.environment import SettingError

logger = logging.getLogger(__name__)

# What passes by itself: a restart, a failover, a full memory that a reader will empty. redis-py
# raises the built-in OSError, too, when it cannot connect.
TRANSIENT = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.MasterDownError,
    OSError,
)
# The disk is full, or too few replicas are there: redis-py has no class for these.
_UNWRITABLE = ("MISCONF", "NOREPLICAS")
SCRIPTS = ("claim", "open", "step", "renew", "release", "heartbeat", "isq_turn", "isq_report")
MAX_BACKOFF_S = 0.5
COMMAND_TIMEOUT_S = 5.0


def serialize(value: Any) -> bytes:
    """arq's serializer: MessagePack, an exception as its repr (arq packs results nobody reads)."""
    return msgspec.msgpack.encode(value, enc_hook=repr)


def deserialize(data: bytes) -> Any:
    """arq's deserializer."""
    return msgspec.msgpack.decode(data)


def connect(url: str, queue: str) -> ArqRedis:
    """A client with a pool of its own; connects on first use. Raises SettingError for a bad URL."""
    retry_on: list[type[Exception]] = [
        redis.exceptions.ConnectionError,
        redis.exceptions.TimeoutError,
        redis.exceptions.BusyLoadingError,
        OSError,
    ]
    try:
        pool = ConnectionPool.from_url(
            url,
            retry=Retry(ExponentialBackoff(cap=MAX_BACKOFF_S, base=0.05), 2),
            retry_on_error=retry_on,
            socket_connect_timeout=COMMAND_TIMEOUT_S,
            **_keepalive(url),
        )
    except ValueError as error:
        raise SettingError(f"REDIS_URL is not a Redis URL: {error}") from error
    return ArqRedis(
        pool, job_serializer=serialize, job_deserializer=deserialize, default_queue_name=queue
    )


def _keepalive(url: str) -> dict[str, Any]:
    """Lets the kernel end a connection whose peer vanished.

    redis-py's own socket_timeout would do it with asyncio.wait_for, which loses cancellations in
    Python 3.11 and costs a task per command.
    """
    if url.startswith("unix:"):
        return {}
    options = {}
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        options[socket.TCP_USER_TIMEOUT] = int(2 * COMMAND_TIMEOUT_S * 1000)
    return {"socket_keepalive": True, "socket_keepalive_options": options}


async def close(client: ArqRedis) -> None:
    """Close the client and its pool, which is ours and not the client's."""
    await client.aclose(close_connection_pool=True)


def as_transient(error: redis.exceptions.RedisError) -> redis.exceptions.RedisError:
    """`error`, or one of TRANSIENT if it means that Redis cannot write for a while."""
    if isinstance(error, redis.exceptions.ResponseError) and str(error).startswith(_UNWRITABLE):
        return redis.exceptions.ReadOnlyError(str(error))
    return error


class Scripts:
    """The Lua scripts of `workers/lua/`, by name."""

    def __init__(self, client: ArqRedis) -> None:
        self._scripts = {name: client.register_script(load_script(name)) for name in SCRIPTS}
        self._down_since_s: float | None = None

    async def run(self, name: str, keys: Sequence[str] = (), args: Sequence[Any] = ()) -> Any:
        """Call a script once. Raises one of TRANSIENT while Redis is away."""
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                reply = await self._scripts[name](keys=keys, args=args)
        except TRANSIENT as error:
            self._note_down(error)
            raise
        except redis.exceptions.ResponseError as error:
            if not isinstance(transient := as_transient(error), TRANSIENT):
                raise
            self._note_down(error)
            raise transient from error
        self._note_up()
        return reply

    async def insist(self, name: str, keys: Sequence[str] = (), args: Sequence[Any] = ()) -> Any:
        """Call a script until Redis has answered, however long it is away."""
        pause_s = 0.02
        while True:
            with contextlib.suppress(*TRANSIENT):
                return await self.run(name, keys, args)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_BACKOFF_S)

    def _note_down(self, error: Exception) -> None:
        if self._down_since_s is None:
            self._down_since_s = time.monotonic()
            logger.warning("Redis is away (%s: %s); trying again", type(error).__name__, error)

    def _note_up(self) -> None:
        if self._down_since_s is not None:
            logger.warning("Redis is back after %.1f s", time.monotonic() - self._down_since_s)
            self._down_since_s = None
