"""A job of embeddings or scores while it is in the engine: one sequence an input, a vector of each.

Inputs go in by and by, so that a job of thousands does not stand in everybody's way, and come out
in order, so that the log says by its length alone where another attempt goes on.
"""

import time
from collections.abc import Iterable, Iterator, Sequence

from engine.config import SamplingParams
from engine.messages import SequenceOutput, SequenceRequest
from workers.contract import Done, Event, Job, Started, Usage, Vectors
from workers.run import Attempt, Run

MAX_ENTRY_BYTES = 1 << 16  # of vectors in one log entry, unless one alone has more
_PARAMS = SamplingParams(max_tokens=1, seed=0)  # nothing is sampled


class Input:
    """What becomes one vector: its tokens and, of a pair, the kind of each."""

    def __init__(
        self, number: int, prompt_ids: Sequence[int], type_ids: Sequence[int] = ()
    ) -> None:
        self.number = number
        self.prompt_ids = list(prompt_ids)
        self.type_ids = list(type_ids)
        self.finish: str | None = None


class VectorRun(Run[Input]):
    """One attempt at one job that makes vectors; its parts are its inputs, in order.

    About `window` tokens of it are in the engine at a time: at least what a step takes, so that
    the engine has the next step's at hand.
    """

    makes_tokens = False

    def __init__(self, job: Job, inputs: Sequence[Input], attempt: Attempt, *, window: int) -> None:
        super().__init__(job, inputs, attempt)
        self._window = window
        self._num_sent = 0  # inputs that went in, or were in the log
        self._num_written = 0
        self._num_inside = 0  # tokens in the engine
        self._made: dict[int, bytes] = {}  # vectors that are not written yet

    @property
    def usage(self) -> Usage:
        """The tokens of all inputs, made or not."""
        return Usage(sum(len(part.prompt_ids) for part in self.parts), 0)

    @property
    def num_new(self) -> int:
        """Vectors that this attempt has made."""
        return self._num_written + len(self._made) - self.num_replayed

    @property
    def num_places(self) -> int:
        """One: how much of the engine it takes is bounded by the window."""
        return 1

    def replay(self, events: Iterable[Event]) -> None:
        """Go on behind the vectors that are in the log."""
        for event in events:
            if isinstance(event, Vectors):
                self._num_written = event.first + event.num
        for part in self.parts[: self._num_written]:
            part.finish = "stop"
        self.num_replayed = self._num_sent = self._num_written

    def start(self) -> None:
        """Hand the first inputs to the engine. Raises EngineDied."""
        if self.log.offset == 0:
            self._append(Started(0, self.usage.prompt_tokens))
        self.end_step()

    def take(self, part: Input, output: SequenceOutput) -> None:
        """One input's vector; `end_step` follows when all of the step are in."""
        if self.ended.done():
            return
        if output.error is not None:
            self.fail(*output.error)
            return
        assert output.vector
        part.finish = output.finish
        self._num_inside -= len(part.prompt_ids)
        self._made[part.number] = output.vector

    def end_step(self) -> None:
        """Write what comes next in the log, then send more or end the job. Raises EngineDied."""
        if self.ended.done():
            return
        for vectors in _grouped(self._next_vectors()):
            event = Vectors(self.log.offset, self._num_written, len(vectors), b"".join(vectors))
            self._append(event)
            self._num_written += len(vectors)
            self.first_token_s = self.first_token_s or time.monotonic()
        if self._num_written == len(self.parts):
            self._append(Done(self.log.offset, self.usage))
            self.ended.set_result("over")
        else:
            self._send_more()

    def _next_vectors(self) -> list[bytes]:
        """Those that follow what is written, without a gap."""
        vectors: list[bytes] = []
        while (vector := self._made.pop(self._num_written + len(vectors), None)) is not None:
            vectors.append(vector)
        return vectors

    def _send_more(self) -> None:
        while self._num_sent < len(self.parts) and self._num_inside < self._window:
            part = self.parts[self._num_sent]
            self._num_sent += 1
            self._num_inside += len(part.prompt_ids)
            self._send(part, self._request(part))

    def _request(self, part: Input) -> SequenceRequest:
        return SequenceRequest(
            id=self.sequence_id(part),
            prompt_ids=part.prompt_ids,
            type_ids=part.type_ids,
            params=_PARAMS,
            salt=self.job.tenant,
        )

    def _running(self) -> list[Input]:
        sent = self.parts[self._num_written : self._num_sent]
        return [part for part in sent if part.finish is None]


def _grouped(vectors: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """The vectors by log entries."""
    if vectors:
        count = max(1, MAX_ENTRY_BYTES // len(vectors[0]))
        for first in range(0, len(vectors), count):
            yield vectors[first : first + count]
