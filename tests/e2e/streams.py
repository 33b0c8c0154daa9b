"""Many streams at a time over HTTP, and when each of their pieces came."""

import asyncio
import itertools
import json
import time
from typing import Any, NamedTuple

import httpx2


class Piece(NamedTuple):
    """An event of a stream: its number, its text, and when it came."""

    number: int
    text: str
    at_s: float


class Stream:
    """One answer as its client sees it. `error` is what ended it early."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.job_id = ""
        self.pieces: list[Piece] = []
        self.error = ""
        self.is_whole = False

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def longest_gap_s(self, start_s: float, end_s: float) -> float:
        """The longest silence between two pieces of which one came between the two times."""
        times = [piece.at_s for piece in self.pieces]
        pairs = itertools.pairwise(times)
        gaps = [b - a for a, b in pairs if b >= start_s and a <= end_s]
        return max(gaps, default=0.0)

    async def run(self, client: httpx2.AsyncClient, max_tokens: int) -> None:
        body = {
            "model": "any",
            "prompt": self.prompt,
            "temperature": 0,
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "stream": True,
        }
        async with client.stream("POST", "/v1/completions", json=body) as reply:
            if reply.status_code != 200:
                self.error = (await reply.aread()).decode()
                return
            self.job_id = reply.headers["x-job-id"]
            await self._read(reply)

    async def _read(self, reply: Any) -> None:
        number = -1
        async for line in reply.aiter_lines():
            if line.startswith("id: "):
                number = int(line[4:])
            elif line == "data: [DONE]":
                self.is_whole = True
            elif line.startswith("data: "):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    self.error = line
                for choice in chunk.get("choices", ()):
                    self.pieces.append(Piece(number, choice["text"], time.monotonic()))


class Crowd:
    """So many streams at a time, another one for each that ends until `stop`.

    Each has a prompt of its own.
    """

    def __init__(self, url: str, num_streams: int, max_tokens: int) -> None:
        self.streams: list[Stream] = []
        self._num_streams = num_streams
        self._is_over = False
        self._max_tokens = max_tokens
        limits = httpx2.Limits(max_connections=num_streams + 2)
        self.client = httpx2.AsyncClient(base_url=url, timeout=120, limits=limits)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Crowd":
        self._tasks = [asyncio.create_task(self._keep_one()) for _ in range(self._num_streams)]
        return self

    async def _keep_one(self) -> None:
        while not self._is_over:
            number = len(self.streams)
            word = _WORDS[number % len(_WORDS)]
            stream = Stream(f"Story {number}: there was once a little {word}, and")
            self.streams.append(stream)
            await stream.run(self.client, self._max_tokens)
            assert not stream.error, stream.error

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.aclose()

    async def until_all_have(self, num_pieces: int) -> None:
        """Wait until each stream has so many pieces, or has ended."""
        deadline_s = time.monotonic() + 60
        while len(self.streams) < self._num_streams or any(
            len(s.pieces) < num_pieces and not s.error for s in self.streams
        ):
            assert time.monotonic() < deadline_s, [len(s.pieces) for s in self.streams]
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Begin no more, and wait for the end of those that run."""
        self._is_over = True
        await asyncio.gather(*self._tasks)


_WORDS = ["bird", "tree", "dog", "girl", "boat"]
