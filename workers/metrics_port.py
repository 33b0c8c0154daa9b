"""A worker's own `GET /metrics`, for a Prometheus server that reads it without the API.

HTTP enough for that: one request a connection. Knows no metric.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from workers.environment import SettingError

MAX_HEAD_BYTES = 16_384
READ_S = 5.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PATH = b"/metrics"


@contextlib.asynccontextmanager
async def metrics_port(port: int, text: Callable[[], bytes]) -> AsyncIterator[None]:
    """Answer on `port` of every address while the block runs; 0: there is none.

    Raises SettingError if the port cannot be had.
    """
    if not port:
        yield
        return
    try:
        server = await asyncio.start_server(_Scrapes(text).answer, port=port, limit=MAX_HEAD_BYTES)
    except OSError as error:
        why = f"port {port} of --metrics-port cannot be listened on: {error.strerror}"
        raise SettingError(why) from error
    async with server:
        yield


class _Scrapes:
    def __init__(self, text: Callable[[], bytes]) -> None:
        self._text = text

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request; whoever sends no whole head in time, or one that is too long, is left."""
        try:
            async with asyncio.timeout(READ_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._reply(head))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return  # TimeoutError is an OSError
        finally:
            writer.close()

    def _reply(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != PATH:
            return _response("404 Not Found", b"There is /metrics only.\n")
        if method != b"GET":
            return _response("405 Method Not Allowed", b"/metrics takes GET.\n")
        return _response("200 OK", self._text())


def _response(status: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {CONTENT_TYPE}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
