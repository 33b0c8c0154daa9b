"""Many clients at once: they ask, the test hurts somebody, they must all get their whole answer."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from tests.chaos.client import CHAT, Stream
from tests.chaos.fleet import Fleet, Node, eventually
from tests.chaos.verdict import Truth, check

IS_FULL = os.environ.get("CHAOS_SIZE") == "full"  # `make chaos`
NUM_STREAMS = 100
NUM_TOKENS = 400 if IS_FULL else 80
DEADLINE_S = 60.0


def question(seed: int, max_tokens: int = NUM_TOKENS, **fields: Any) -> dict[str, Any]:
    """A chat request whose answer the oracle knows."""
    return {
        "model": "any",
        "messages": [{"role": "user", "content": "What is Tramontane?"}],
        "seed": seed,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        **fields,
    }


class Crowd:
    """Streams that run from `async with` on; they begin at different API processes.

    They ask `questions`, or `question(0, **fields)`, `question(1, **fields)` and so on.
    """

    def __init__(
        self,
        fleet: Fleet,
        oracle: Truth,
        size: int = NUM_STREAMS,
        *,
        path: str = CHAT,
        questions: Sequence[dict[str, Any]] = (),
        ports: list[int] | None = None,
        **fields: Any,
    ) -> None:
        self.fleet = fleet
        self.oracle = oracle
        self.ports = ports or fleet.ports  # changed in place, all clients learn of it
        bodies = questions or [question(seed, **fields) for seed in range(size)]
        self.streams = [
            Stream(self.ports, body, path=path, first=number) for number, body in enumerate(bodies)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(stream.run()) for stream in self.streams]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def reach(self, num_texts: int) -> None:
        """Wait until every stream has so many frames with text."""
        await self.until(lambda: all(s.num_texts >= num_texts for s in self.streams))

    async def until(self, condition: Callable[[], Any], timeout_s: float = DEADLINE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            for task in self._tasks:
                if task.done() and (error := task.exception()) is not None:
                    raise error
            assert time.monotonic() < deadline, self.describe()
            await asyncio.sleep(0.01)

    async def busiest(self) -> Node:
        """The worker that has most of the streams, all of which are open."""
        count = len(self.streams)
        await eventually(lambda: self.fleet.num_running() == count, "the gauges show all streams")
        return self.fleet.busiest()

    async def finish(self, timeout_s: float = DEADLINE_S) -> None:
        """Wait for every end and judge."""
        _, pending = await asyncio.wait(self._tasks, timeout=timeout_s)
        assert not pending, f"{len(pending)} streams have no end\n{self.describe()}"
        for task in self._tasks:
            task.result()
        try:
            check(self.streams, self.oracle)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.fleet.logs()}") from None

    def describe(self) -> str:
        some = [
            f"{s.job_id or 'no job'}: {s.num_texts} texts, {s.num_connections} connections, "
            f"{s.refusals[-1:]}"
            for s in self.streams
            if not s.is_over
        ]
        return "\n".join([*some[:10], self.fleet.logs()])

    def num_moved(self) -> int:
        """Jobs that more than one attempt worked on."""
        return sum(self.fleet.attempts(s.job_id) > 1 for s in self.streams)

    def num_resumed(self) -> int:
        """Streams that took more than one connection."""
        return sum(s.num_connections - len(s.refusals) > 1 for s in self.streams)

    def num_refused(self) -> int:
        return sum(bool(s.refusals) for s in self.streams)

    def longest_silence_s(self) -> float:
        return max(s.longest_silence_s() for s in self.streams)
