"""How an engine gets from one step to the next: one by one, or the next before the last is known.

Knows scheduler and runner, no requests.
"""

from typing import Protocol

from engine.careful import Careful
from engine.graph_runner import Flight, GraphRunner
from engine.runner import Model, Runner, Sampled
from engine.scheduler import Scheduler, Step


class Steps(Protocol):
    """Runs what the scheduler says. What `next` gives is to be committed before it is asked again.

    Raises OutOfMemory as `Careful` does; it gives None too where a step did not fit the memory.

    Sequences may be added, cancelled and put back between two calls.
    """

    def next(self) -> tuple[Step, Sampled] | None:
        """The next step and what it made; None if nothing can run."""

    def take_model(self, model: Model) -> None:
        """Another model in the place of the one that runs; nothing it computed is told any more.

        Every sequence must have been put back.
        """


class OneByOne:
    """A step begins when the one before is committed."""

    def __init__(self, scheduler: Scheduler, runner: Runner, careful: Careful) -> None:
        self._scheduler, self._runner, self._careful = scheduler, runner, careful

    def next(self) -> tuple[Step, Sampled] | None:
        """As `Steps` has it."""
        step = self._scheduler.schedule()
        if not step.sequences:
            return None
        made = self._careful.attempt(step, self._runner.run)
        return None if made is None else (step, made)

    def take_model(self, model: Model) -> None:
        """As `Steps` has it."""
        self._runner.model = model


class Pipelined:
    """Where the next step is certain, the device has it before the ids of the last are waited for.

    So between two calls a step may be in flight, whose blocks are allocated and whose tokens nobody
    knows. A sequence that is gone by the time it is waited for, because its last token was a stop,
    or by a cancel, was computed in vain: its token is dropped here, by the sequence, as its row and
    its blocks may be another's by then. They were free while the device had yet to write to them,
    which harms nobody: the device does all it is told in order, so whoever got them writes later.
    Nor is what it wrote ever hit as a cached prefix: that is the keys of a sequence's last token,
    and only blocks full of tokens before it have names.
    """

    def __init__(self, scheduler: Scheduler, runner: GraphRunner, careful: Careful) -> None:
        self._scheduler, self._runner, self._careful = scheduler, runner, careful
        self._flight: Flight | None = None

    def next(self) -> tuple[Step, Sampled] | None:
        """As `Steps` has it."""
        flight = self._take()
        if flight is None:
            self._careful.settle()
            step = self._scheduler.schedule()
            if not step.sequences:
                return None
            if not self._runner.leads_on(step):
                made = self._careful.attempt(step, self._runner.run)
                return None if made is None else (step, made)
            flight = self._careful.attempt(step, self._runner.launch)
            if flight is None:
                return None
        following = self._scheduler.follow(flight.step)
        if following is not None:
            self._flight = self._careful.attempt_ahead(following, self._runner.launch)
        return _present(flight.step, flight.wait())

    def take_model(self, model: Model) -> None:
        """As `Steps` has it."""
        self._flight = None
        self._runner.take_model(model)

    def _take(self) -> Flight | None:
        """What is in flight, if anyone is there who waits for it."""
        flight, self._flight = self._flight, None
        if flight is None or not any(sequence.row >= 0 for sequence in flight.step.sequences):
            return None
        return flight


def _present(step: Step, token_ids: list[int]) -> tuple[Step, Sampled]:
    """A decode step without the sequences that are gone, and its ids."""
    kept = [place for place, sequence in enumerate(step.sequences) if sequence.row >= 0]
    if len(kept) == len(step.sequences):
        return step, Sampled(token_ids, {})
    present = Step.decode([step.sequences[place] for place in kept], [])
    return present, Sampled([token_ids[place] for place in kept], {})
