"""One attempt at one job while it is in the engine: what every kind of job has in common.

Everything here is synchronous: an engine step passes through without waking a task per job. Knows
no Redis, no socket, and not what the engine makes.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from engine.messages import SequenceOutput, SequenceRequest
from workers.blame import Fate
from workers.contract import Event, Failed, Job, Usage
from workers.token_log import JobLog, TokenLog

INTERNAL_ERROR = "The server failed while it handled the request."

# over: the log has its terminal entry. lost: another attempt has the job. left: we hand it back.
End = Literal["over", "lost", "left", "engine_died"]


class Standing(NamedTuple):
    """What a job is to those beside it: engines that died under it, and if it gives way to them."""

    crashes: int = 0
    is_batch: bool = False


ORDINARY = Standing()


class EngineDoor(Protocol):
    """Where sequences go in."""

    def add(self, request: SequenceRequest) -> None:
        """Run a sequence. Raises EngineDied."""

    def cancel(self, sequence_id: str) -> None:
        """Forget a sequence."""


class Attempt(NamedTuple):
    """What an attempt, the job's `number`th, works with."""

    number: int
    log: JobLog
    token_log: TokenLog
    engine: EngineDoor
    standing: Standing = ORDINARY
    queued_s: float = 0.0  # how long the job had waited


class Part(Protocol):
    """What one sequence makes: its number in the job, and why it ended once it has."""

    number: int

    @property
    def finish(self) -> str | None:
        """stop, length, tool_calls; None while it goes on."""
        ...


P = TypeVar("P", bound=Part)


class Run(ABC, Generic[P]):
    """`ended` is set once, whatever the end. `fresh` has what went into the engine since somebody
    last took it out of there.

    Sequence ids carry the attempt, so late outputs of an earlier one in this worker find nobody.
    """

    makes_tokens: bool  # one after the other, with a time between them

    def __init__(self, job: Job, parts: Sequence[P], attempt: Attempt) -> None:
        self.job = job
        self.parts = list(parts)
        self.queued_s = attempt.queued_s
        self.standing = attempt.standing
        self.attempt = attempt.number
        self.log = attempt.log
        self.began_s = time.monotonic()
        self.first_token_s: float | None = None
        self.last_token_s: float | None = None
        self.failure: Failed | None = None
        self.fate: Fate = "innocent"  # of the engine's death, if it died
        self.num_replayed = 0
        self.ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self.fresh: list[tuple[str, P]] = []
        self._token_log = attempt.token_log
        self._engine = attempt.engine

    @property
    @abstractmethod
    def usage(self) -> Usage:
        """Token counts so far."""

    @property
    @abstractmethod
    def num_new(self) -> int:
        """What this attempt has made: tokens, or vectors."""

    @property
    @abstractmethod
    def num_places(self) -> int:
        """Places of the engine that it takes now."""

    @abstractmethod
    def replay(self, events: Iterable[Event]) -> None:
        """Come to where an earlier attempt left off."""

    @abstractmethod
    def start(self) -> None:
        """Hand sequences to the engine. Raises EngineDied."""

    @abstractmethod
    def take(self, part: P, output: SequenceOutput) -> None:
        """One sequence's part of a step; `end_step` follows when all parts are in."""

    @abstractmethod
    def end_step(self) -> None:
        """Write what the step made, and the end of the job if this was it. Raises EngineDied."""

    @property
    def outcome(self) -> str:
        """How it ended, for the log."""
        if self.failure is not None:
            return self.failure.code
        end = self.ended.result()
        return "done" if end == "over" else end

    def sequence_id(self, part: P) -> str:
        """The part's name in the engine."""
        return f"{self.job.id}/{part.number}/{self.attempt}"

    def _send(self, part: P, request: SequenceRequest) -> None:
        self._engine.add(request)
        self.fresh.append((request.id, part))

    def _append(self, event: Event) -> None:
        self._token_log.append(self.log, event)

    def fail(self, code: str, message: str, param: str | None = None) -> None:
        """End with a Failed entry and stop the sequences."""
        if self.ended.done():
            return
        self.failure = Failed(self.log.offset, code, message, param)
        self._append(self.failure)
        self.stop()
        self.ended.set_result("over")

    def cancel(self) -> None:
        """The client gave up."""
        self.fail("cancelled", "The request was cancelled.")

    def abandon(self) -> None:
        """Another attempt has the job: stop without a word."""
        self._leave("lost")

    def hand_back(self) -> None:
        """Someone else goes on: stop without a word."""
        self._leave("left")

    def _leave(self, end: End) -> None:
        if not self.ended.done():
            self.stop()
            self.ended.set_result(end)

    def lose_engine(self, fate: Fate = "innocent") -> None:
        """The engine died under the job, or cannot take it; `fate` is what follows for the job."""
        if not self.ended.done():
            self.fate = fate
            self.ended.set_result("engine_died")

    def stop(self) -> None:
        """Take the sequences out of the engine."""
        for part in self._running():
            self._engine.cancel(self.sequence_id(part))

    def _running(self) -> Iterable[P]:
        """What may be in the engine."""
        return [part for part in self.parts if part.finish is None]


AnyRun = Run[Any]
