"""One pub/sub connection to Redis that comes back by itself, read with hiredis.

Knows channels, not what they carry.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

PING_S = 10.0  # a connection that does not answer for this long is given up
_RECONNECT_S = (0.02, 0.05, 0.1, 0.2, 0.5)


class _Wire(asyncio.Protocol):
    """The subscribed connection: bytes in, messages out."""

    def __init__(self, on_message: Callable[[bytes], None], on_ready: Callable[[], None]) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.has_answered = True
        self._parser = hiredis.Reader()
        self._on_message = on_message
        self._on_ready = on_ready

    def data_received(self, data: bytes) -> None:
        self.has_answered = True
        self._parser.feed(data)
        while (reply := self._parser.gets()) is not False:
            self._handle(reply)

    def _handle(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self._lose(f"the subscription was refused: {reply}")
        elif reply[0] == b"message":
            self._on_message(reply[2])
        elif reply[0] == b"subscribe":
            self._on_ready()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose("the subscription was lost")

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)


class Subscription:
    """Channels of one process.

    `on_message` gets payloads; `on_ready` is called after every (re)subscription.
    """

    def __init__(
        self, url: str, on_message: Callable[[bytes], None], on_ready: Callable[[], None]
    ) -> None:
        self._pool = ConnectionPool.from_url(url, socket_connect_timeout=2.0)
        self._on_message = on_message
        self._on_ready = on_ready
        self._followers: dict[str, int] = {}
        self._transport: asyncio.WriteTransport | None = None
        self._num_failures = 0  # since it last worked

    @property
    def is_connected(self) -> bool:
        """True while the connection stands."""
        return self._transport is not None

    def follow(self, channel: str) -> None:
        """Hear `channel` until `unfollow` was called as often."""
        self._followers[channel] = self._followers.get(channel, 0) + 1
        if self._followers[channel] == 1:
            self._send("SUBSCRIBE", channel)

    def unfollow(self, channel: str) -> None:
        """One follower less."""
        self._followers[channel] -= 1
        if not self._followers[channel]:
            del self._followers[channel]
            self._send("UNSUBSCRIBE", channel)

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                self._note_failure(await self._listen(connection))
            except (RedisError, OSError) as error:
                self._note_failure(f"cannot subscribe: {error}")
            finally:
                self._transport = None
                await connection.disconnect(nowait=True)
            await asyncio.sleep(_RECONNECT_S[min(self._num_failures, len(_RECONNECT_S)) - 1])

    def _note_failure(self, what: str) -> None:
        if self._num_failures == 0:  # one line an outage
            logger.warning("%s; trying again", what)
        self._num_failures += 1

    def _note_ready(self) -> None:
        if self._num_failures:
            logger.warning("subscribed again")
        self._num_failures = 0
        self._on_ready()

    async def _listen(self, connection: AbstractConnection) -> str:
        """Return why it ended."""
        wire = _Wire(self._on_message, self._note_ready)
        # redis-py did the handshake (TLS, AUTH) that the URL asks for; from here hiredis reads the
        # socket itself, which costs a third of redis-py's reader.
        writer = connection._writer
        assert writer is not None
        transport = writer.transport
        transport.set_protocol(wire)
        self._transport = transport
        if self._followers:
            self._send("SUBSCRIBE", *self._followers)
        while not wire.lost.done():
            await asyncio.wait([wire.lost], timeout=PING_S)
            if not wire.has_answered:
                return "the subscription does not answer"
            wire.has_answered = False
            self._send("PING")
        return wire.lost.result()

    def _send(self, *command: str) -> None:
        # A lost connection stays here until `run` sees it; the next one subscribes to everything.
        if self._transport is not None and not self._transport.is_closing():
            # The stub says a tuple of one; any length is meant.
            self._transport.write(hiredis.pack_command(cast("tuple[str]", command)))
