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
    """So many streams, begun at once; each has a prompt of its own."""

    def __init__(self, url: str, num_streams: int, max_tokens: int) -> None:
        self.streams = [
            Stream(f"Story {n}: there was once a little {word}, and")
            for n, word in zip(range(num_streams), _WORDS * num_streams, strict=False)
        ]
        self._max_tokens = max_tokens
        limits = httpx2.Limits(max_connections=num_streams + 2)
        self.client = httpx2.AsyncClient(base_url=url, timeout=120, limits=limits)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Crowd":
        runs = (stream.run(self.client, self._max_tokens) for stream in self.streams)
        self._tasks = [asyncio.create_task(run) for run in runs]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.aclose()

    async def until_all_have(self, num_pieces: int) -> None:
        """Wait until each stream has so many pieces, or has ended."""
        deadline_s = time.monotonic() + 60
        while any(len(s.pieces) < num_pieces and not s.error for s in self.streams):
            assert time.monotonic() < deadline_s, [len(s.pieces) for s in self.streams]
            await asyncio.sleep(0.01)

    async def all_ended(self) -> None:
        await asyncio.gather(*self._tasks)


_WORDS = ["bird", "tree", "dog", "girl", "boat"]
