"""A client that wants its answer: follows a stream, and goes on elsewhere when it breaks off.

It keeps every frame with its event id. It judges nothing; `verdict.py` does.
"""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

CHAT = "/v1/chat/completions"
PAUSE_S = 0.1  # before a broken stream is taken up elsewhere, and before a refusal is tried again


class Frame(NamedTuple):
    """One SSE frame: its event number if it has one, its data, when it came."""

    event_id: int | None
    data: str
    at_s: float


class Refused(Exception):
    """An answer that is no stream."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"HTTP {status}: {body[:500].decode(errors='replace')}")
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


class Response:
    """Status, headers and the body's pieces of one HTTP answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.num_comments = 0  # pings and the like
        self.headers: dict[str, str] = {}

    async def read_head(self) -> None:
        """Raises EOFError if the connection ends before."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ")[1])
        for line in filter(None, lines):
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body. Raises EOFError if it was cut off."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                yield (await self._reader.readexactly(size + 2))[:-2]
        elif "content-length" in self.headers:
            yield await self._reader.readexactly(int(self.headers["content-length"]))

    async def body(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def frames(self) -> AsyncIterator[Frame]:
        """The frames of an event stream; one that was cut in the middle does not count."""
        rest = b""
        async for piece in self.pieces():
            *whole, rest = (rest + piece).split(b"\n\n")
            for raw in whole:
                self.num_comments += sum(line[:1] == b":" for line in raw.split(b"\n"))
                if (frame := _frame(raw.decode())) is not None:
                    yield frame

    def close(self) -> None:
        self._writer.transport.abort()


def _frame(text: str) -> Frame | None:
    fields = dict(line.split(": ", 1) for line in text.split("\n") if not line.startswith(":"))
    if "data" not in fields:
        return None
    event_id = int(fields["id"]) if "id" in fields else None
    return Frame(event_id, fields["data"], time.monotonic())


async def _connect(port: int, buffer_bytes: int) -> socket.socket:
    connection = socket.socket()
    connection.setblocking(False)
    if buffer_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    try:
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    except BaseException:
        connection.close()
        raise
    return connection


async def request(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    *,
    buffer_bytes: int = 0,
) -> Response:
    """Send a request and read the answer's head. `body`: bytes, or what becomes JSON.

    `buffer_bytes`: of what is sent to us, this machine keeps so much; 0: much.
    Raises OSError or EOFError.
    """
    payload = (
        body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    )
    given = {"Host": "chaos", "Content-Type": "application/json", "Connection": "close"}
    given |= {"Content-Length": str(len(payload)), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    connection = await _connect(port, buffer_bytes)
    reader, writer = await asyncio.open_connection(sock=connection, limit=buffer_bytes or 1 << 22)
    response = Response(reader, writer)
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + payload)
        await response.read_head()
    except BaseException:
        response.close()
        raise
    return response


async def call(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Any:
    """The answer's JSON. Raises Refused for an error status."""
    response = await request(port, method, path, body, headers)
    try:
        data = await response.body()
    finally:
        response.close()
    if response.status >= 400:
        raise Refused(response.status, response.headers, data)
    return json.loads(data) if data else None


class Stream:
    """One question and all that was heard of its answer, over however many connections.

    `ports` is shared and may change: connection n goes to its entry `first + n`, round about.
    """

    def __init__(
        self,
        ports: Sequence[int],
        body: dict[str, Any],
        *,
        first: int = 0,
        path: str = CHAT,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.ports = ports
        self.first = first
        self.body = body | {"stream": True}
        self.path = path
        self.headers = dict(headers or {})
        self.job_id = ""
        self.last_id = -1
        self.frames: list[Frame] = []
        self.refusals: list[Refused] = []
        self.num_connections = 0
        self.num_breaks = 0
        self.num_comments = 0
        self.is_over = False  # [DONE] was heard and the body ended
        self.began_s = 0.0
        self._parsed: list[dict[str, Any]] = []

    @property
    def chunks(self) -> list[dict[str, Any]]:
        for frame in self.frames[len(self._parsed) :]:
            self._parsed.append({} if frame.data == "[DONE]" else json.loads(frame.data))
        return self._parsed

    @property
    def num_texts(self) -> int:
        """Frames with text so far: tokens, but for those without any text of their own."""
        return sum(1 for frame in self.frames if frame.data != "[DONE]") - 1

    def text(self, choice: int = 0) -> str:
        parts = [c for chunk in self.chunks for c in chunk.get("choices", ())]
        return "".join(_content(part) for part in parts if part["index"] == choice)

    def finishes(self, choice: int = 0) -> list[str]:
        parts = [c for chunk in self.chunks for c in chunk.get("choices", ())]
        return [c["finish_reason"] for c in parts if c["index"] == choice and c["finish_reason"]]

    def errors(self) -> list[dict[str, Any]]:
        return [chunk["error"] for chunk in self.chunks if "error" in chunk]

    def longest_silence_s(self) -> float:
        """The longest time between two frames."""
        times = [frame.at_s for frame in self.frames]
        return max((later - sooner for sooner, later in pairwise(times)), default=0.0)

    async def run(self) -> None:
        """Until [DONE], however often it breaks. Raises Refused where trying again is no use."""
        self.began_s = time.monotonic()
        while not self.is_over:
            try:
                await self.follow_once()
            except (OSError, EOFError, asyncio.LimitOverrunError):
                self.num_breaks += 1
            except Refused as refused:
                self.refusals.append(refused)
                if refused.status < 500 and refused.status != 429:
                    raise
            if not self.is_over:
                await asyncio.sleep(PAUSE_S)

    async def follow_once(self) -> None:
        """One connection: the question, or the rest of the answer. Raises what broke it."""
        port = self.ports[(self.first + self.num_connections) % len(self.ports)]
        self.num_connections += 1
        response = await self._connect(port)
        try:
            if response.status == 204:  # all was said; the end was lost on the way
                self.is_over = True
                return
            if response.status != 200:
                raise Refused(response.status, response.headers, await response.body())
            self.job_id = response.headers["x-job-id"]
            await self._listen(response)
        finally:
            self.num_comments += response.num_comments
            response.close()

    async def _connect(self, port: int) -> Response:
        if not self.job_id:
            return await request(port, "POST", self.path, self.body, self.headers)
        place = {"Last-Event-ID": str(self.last_id)} if self.last_id >= 0 else {}
        return await request(
            port, "GET", f"/v1/jobs/{self.job_id}/events", None, self.headers | place
        )

    async def _listen(self, response: Response) -> None:
        is_done = False
        async for frame in response.frames():
            self.frames.append(frame)
            if frame.event_id is not None:
                self.last_id = frame.event_id
            is_done = is_done or frame.data == "[DONE]"
        self.is_over = is_done


def _content(choice: dict[str, Any]) -> str:
    return str(choice["text"] if "text" in choice else choice["delta"].get("content") or "")
