"""A client that costs little: it keeps the bytes as they come and reads them afterwards."""

import asyncio
import json
import time
from functools import cached_property
from typing import Any, cast


def request_bytes(body: dict[str, Any]) -> bytes:
    payload = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + payload


class Stream(asyncio.Protocol):
    """One request and its SSE answer. `done` ends at `[DONE]` or a closed connection."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received: list[bytes] = []
        self.first_text_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes) -> None:
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.received.append(data)
        if not self.first_text_s and b'"content":"' in data.replace(b'"content":""', b""):
            self.first_text_s = time.perf_counter()
        if b"[DONE]" in data and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(f"the stream broke off: {exc}"))

    @cached_property
    def frames(self) -> list[tuple[int | None, dict[str, Any]]]:
        """(event id, chunk) of every frame; the transfer encoding's own lines are dropped."""
        frames, event_id = [], None
        for line in _unchunk(b"".join(self.received)).decode().splitlines():
            if line.startswith("id: "):
                event_id = int(line[4:])
            elif line.startswith("data: {"):
                frames.append((event_id, json.loads(line[6:])))
                event_id = None
        return frames

    def text(self) -> str:
        choices = [c for _, chunk in self.frames for c in chunk.get("choices", ())]
        return "".join(c["delta"].get("content") or "" for c in choices)

    def event_ids(self) -> list[int]:
        return [event_id for event_id, _ in self.frames if event_id is not None]


def _unchunk(raw: bytes) -> bytes:
    head, _, rest = raw.partition(b"\r\n\r\n")
    if b"chunked" not in head.lower():
        return rest
    body = bytearray()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        body += rest[:length]
        rest = rest[length + 2 :]
    return bytes(body)
