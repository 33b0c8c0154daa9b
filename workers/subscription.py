"""Listens on Redis channels, through restarts. Knows channels, not what their messages mean."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError

from workers.redis_link import MAX_BACKOFF_S, TRANSIENT

logger = logging.getLogger(__name__)

PING_S = 5.0


class Subscription:
    """Calls `handlers[channel](message)`.

    `on_ready` is called after every subscription: messages before it may have been missed.
    """

    def __init__(
        self,
        url: str,
        handlers: Mapping[str, Callable[[str], None]],
        on_ready: Callable[[], None],
    ) -> None:
        self._url = url
        self._handlers = handlers
        self._on_ready = on_ready

    async def run(self) -> None:
        """Listen until cancelled."""
        pause_s = 0.02
        while True:
            client = Redis.from_url(self._url)
            try:
                async with client, client.pubsub() as pubsub:
                    await self._subscribe(pubsub)
                    pause_s = 0.02
                    await self._listen(pubsub)
            except TRANSIENT as error:
                logger.debug("subscription lost: %r", error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_BACKOFF_S)

    async def _subscribe(self, pubsub: PubSub) -> None:
        await pubsub.subscribe(*self._handlers)
        missing = set(self._handlers)
        while missing:
            message = await pubsub.get_message(timeout=PING_S)
            if message is None:
                raise RedisConnectionError("no answer to SUBSCRIBE")
            if message["type"] == "subscribe":
                missing.discard(message["channel"].decode())
        self._on_ready()

    async def _listen(self, pubsub: PubSub) -> None:
        is_pinged = False
        while True:
            message = await pubsub.get_message(timeout=PING_S)
            if message is not None:
                is_pinged = False
                self._dispatch(message)
            elif is_pinged:
                raise RedisConnectionError("no answer to PING")
            else:  # a peer that vanished without a word looks like silence
                await pubsub.ping()
                is_pinged = True

    def _dispatch(self, message: dict[str, bytes | str]) -> None:
        if message["type"] != "message":
            return
        channel, data = message["channel"], message["data"]
        assert isinstance(channel, bytes)
        assert isinstance(data, bytes)
        with contextlib.suppress(UnicodeDecodeError):  # not one of ours
            self._handlers[channel.decode()](data.decode())
