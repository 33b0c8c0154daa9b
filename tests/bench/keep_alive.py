"""A client that asks one thing after the other over one connection, cheaply. Knows JSON answers."""

import asyncio
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self


class Connection:
    """Context manager; one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()

    async def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON body."""
        payload = json.dumps(body).encode()
        given = {"Host": "bench", "Content-Type": "application/json", **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        head = f"POST {path} HTTP/1.1\r\n{lines}Content-Length: {len(payload)}\r\n\r\n"
        self._writer.write(head.encode() + payload)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(answer.partition("content-length:")[2].partition("\r\n")[0])
        data = await self._reader.readexactly(length)
        return int(answer.split(" ", 2)[1]), json.loads(data)
