"""An HTTP server that webhooks go to: takes what comes and answers as it is told to."""

import asyncio
import contextlib
import ssl
from typing import NamedTuple


class Received(NamedTuple):
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


class Target:
    """Listens on a local port until `stop`.

    `answers` are used up one by one, the last one stays: a status, raw bytes to send, or None for
    no answer at all.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers: list[int | bytes | None] = [200]
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.received: list[Received] = []
        self.num_connections = 0
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> "Target":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?a=1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.num_connections += 1
        with contextlib.closing(writer), contextlib.suppress(OSError, EOFError):
            self.received.append(await _read(reader))
            answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
            await self.may_answer.wait()
            if answer is None:
                await reader.read()  # until the client gives up
            else:
                await self._answer(writer, answer)

    async def _answer(self, writer: asyncio.StreamWriter, answer: int | bytes) -> None:
        if isinstance(answer, int):
            answer = f"HTTP/1.1 {answer} X\r\ncontent-length: 2\r\n\r\nok".encode()
        writer.write(answer)
        await writer.drain()


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in head[1:] if line)
    headers = {name.lower(): value for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(head[0].split(" ")[1], headers, body)
