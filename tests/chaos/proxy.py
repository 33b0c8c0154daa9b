"""A TCP port before Redis for one process, to cut, freeze or mute its connections.

Knows bytes, and of Redis' protocol only how a subscription begins. The ports are in a process of
their own (`python -m tests.chaos.proxy FD`, told what to do by proxies.py): leases of a second pass
through them, and the tests' process stands still for half of one when it collects its garbage.
"""

import asyncio
import contextlib
import json
import socket
import sys
from pathlib import Path
from typing import Any


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
    """Forwards `port` to a unix socket."""

    def __init__(self, target: Path) -> None:
        self.port = 0  # until `start`
        self._target = target
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_refusing = False
        self._is_muted = False
        self._is_flowing = asyncio.Event()
        self._is_flowing.set()
        self._server: asyncio.Server

    async def start(self) -> int:
        """The port, from now on open."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def cut(self) -> int:
        """Reset every connection, once. How many there were."""
        links = list(self._links)
        for link in links:
            link.abort()
        return len(links)

    async def refuse(self) -> None:
        """Reset every connection, and every new one, until `restore`."""
        self._is_refusing = True
        await self.cut()

    async def freeze(self) -> None:
        """Forward nothing until `restore`; connections stay open."""
        self._is_flowing.clear()

    async def mute(self) -> None:
        """Swallow what Redis says on subscriptions until `restore`; all else goes on."""
        self._is_muted = True

    async def restore(self) -> None:
        """Forward everything again."""
        self._is_refusing = self._is_muted = False
        self._is_flowing.set()

    async def close(self) -> None:
        """End every connection and the port."""
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


async def _serve(control: socket.socket) -> None:
    """Do what each line says, [number of the proxy, method, its arguments], and answer."""
    proxies: dict[int, Proxy] = {}
    reader, writer = await asyncio.open_unix_connection(sock=control)
    while line := await reader.readline():
        number, method, *arguments = json.loads(line)
        if method == "start":
            proxies[number] = Proxy(*map(Path, arguments))
        answer: Any = await getattr(proxies[number], method)()
        if method == "close":
            del proxies[number]
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()


if __name__ == "__main__":
    asyncio.run(_serve(socket.socket(fileno=int(sys.argv[1]))))
