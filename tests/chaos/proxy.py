"""A TCP port before Redis for one process, to cut, freeze or mute its connections.

Knows bytes, and of Redis' protocol only how a subscription begins.
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Thread:
    """An event loop in a thread of its own, so that proxies outlive the loops of single tests."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def close(self) -> None:
        self.run(asyncio.sleep(0.1))  # transports that were aborted have a last word
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class _Link:
    """One connection of the process, and ours to Redis."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.is_subscription = False

    def abort(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """Forwards `port` to a unix socket. The methods may be called from any thread."""

    def __init__(self, thread: Thread, target: Path) -> None:
        self._thread = thread
        self._target = target
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_refusing = False
        self._is_muted = False
        self._is_flowing: asyncio.Event
        self.port = thread.run(self._start())

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def num_links(self) -> int:
        return len(self._links)

    def cut(self) -> int:
        """Reset every connection, once. How many there were."""
        return self._thread.run(self._cut())

    def refuse(self) -> None:
        """Reset every connection, and every new one, until `restore`."""
        self._is_refusing = True
        self.cut()

    def freeze(self) -> None:
        """Forward nothing until `restore`; connections stay open."""
        self._thread.run(self._set_flowing(False))

    def mute(self) -> None:
        """Swallow what Redis says on subscriptions until `restore`; all else goes on."""
        self._is_muted = True

    def restore(self) -> None:
        self._is_refusing = self._is_muted = False
        self._thread.run(self._set_flowing(True))

    def close(self) -> None:
        self._thread.run(self._close())

    async def _start(self) -> int:
        self._is_flowing = asyncio.Event()
        self._is_flowing.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _set_flowing(self, is_flowing: bool) -> None:
        (self._is_flowing.set if is_flowing else self._is_flowing.clear)()

    async def _cut(self) -> int:
        links = list(self._links)
        for link in links:
            link.abort()
        return len(links)

    async def _close(self) -> None:
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_refusing:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._forward(reader, writer))
        self._tasks.add(task)
        # Whatever ends it, even before it began.
        task.add_done_callback(lambda _: writer.transport.abort())
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_redis, to_redis = await asyncio.open_unix_connection(self._target)
        except OSError:  # Redis is down: so are we
            return
        link = _Link(writer, to_redis)
        self._links.add(link)
        pumps = [
            asyncio.create_task(self._pump(reader, to_redis, link, is_request=True)),
            asyncio.create_task(self._pump(from_redis, writer, link, is_request=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._links.discard(link)
            link.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        link: _Link,
        *,
        is_request: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                await self._is_flowing.wait()
                if is_request and b"SUBSCRIBE" in data:
                    link.is_subscription = True
                if self._is_muted and link.is_subscription and not is_request:
                    continue
                sink.write(data)
                await sink.drain()
