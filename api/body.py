"""A request's body and its client's presence, read from ASGI's `receive`. Knows no route.

The server calls the app when the headers are in; the body is read here, counted and against the
clock.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from api.errors import ApiError

Receive = Callable[[], Awaitable[dict[str, Any]]]

# What is swallowed after an early answer, so that a client that writes first and reads later gets
# to see it.
DISCARD_BYTES = 512 << 20
# An upload may take longer than other bodies, but never trickle: each so many bytes buy a second.
UPLOAD_BYTES_PER_S = 32 << 10


class Body:
    """The body of one request. `read` may be called once."""

    def __init__(self, receive: Receive, headers: list[tuple[bytes, bytes]]) -> None:
        self._receive = receive
        self._declared = next((v for name, v in headers if name == b"content-length"), b"")
        self._is_complete = False
        self._watcher: asyncio.Task[None] | None = None

    async def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """The whole body. Raises ApiError if it is too large, too slow or cut off."""
        self._check_declared(max_bytes)
        chunks: list[bytes] = []
        num_bytes = 0
        try:
            async with asyncio.timeout(timeout_s):
                while not self._is_complete:
                    chunks.append(await self._next())
                    num_bytes += len(chunks[-1])
                    if num_bytes > max_bytes:
                        raise _too_large(max_bytes)
        except TimeoutError as error:
            self._is_complete = True  # what may still come is not worth waiting for
            raise _too_slow() from error
        return b"".join(chunks)

    async def pieces(self, max_bytes: int, timeout_s: float) -> AsyncIterator[bytes]:
        """The body as it arrives, instead of `read`.

        Raises ApiError if it is too large, stalls for `timeout_s`, trickles, or is cut off.
        """
        self._check_declared(max_bytes)
        now_s = asyncio.get_running_loop().time
        deadline_s = now_s() + timeout_s
        num_bytes = 0
        while not self._is_complete:
            try:
                async with asyncio.timeout_at(min(deadline_s, now_s() + timeout_s)):
                    piece = await self._next()
            except TimeoutError as error:
                self._is_complete = True
                raise _too_slow() from error
            num_bytes += len(piece)
            if num_bytes > max_bytes:
                raise _too_large(max_bytes)
            deadline_s += len(piece) / UPLOAD_BYTES_PER_S
            yield piece

    async def discard(self, timeout_s: float) -> None:
        """Swallow what is left of the body, unless the client is being watched."""
        if self._watcher is not None:
            return
        num_bytes = 0
        try:
            async with asyncio.timeout(timeout_s):
                while not self._is_complete and num_bytes < DISCARD_BYTES:
                    num_bytes += len(await self._next())
        except (TimeoutError, ApiError):
            return

    def watch(self, on_disconnect: Callable[[], None]) -> None:
        """Call `on_disconnect` when the client leaves. After `read`, or if there is no body."""
        self._watcher = asyncio.get_running_loop().create_task(self._watch(on_disconnect))

    def close(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.cancel()

    def _check_declared(self, max_bytes: int) -> None:
        if self._declared.isdigit() and int(self._declared) > max_bytes:
            raise _too_large(max_bytes)

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] != "http.request":
            self._is_complete = True
            raise _too_slow()
        self._is_complete = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body

    async def _watch(self, on_disconnect: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        on_disconnect()


def _too_large(max_bytes: int) -> ApiError:
    return ApiError("request_too_large", f"The request body exceeds {max_bytes} bytes.")


def _too_slow() -> ApiError:
    return ApiError("request_timeout", "The request body did not arrive in time.")
