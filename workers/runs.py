"""The jobs that run: into the engine in their turn, out with each step. Knows no Redis.

Everything here is synchronous and costs a step what its outputs cost; what only suspects and batch
jobs need is looked at when there are some.
"""

import logging
import time
from collections.abc import Callable, Sequence

from engine.messages import EngineStats, SequenceOutput
from workers.blame import Lane, Verdict
from workers.engine_process import EngineDied
from workers.logs import without_message
from workers.meter import Meter
from workers.run import INTERNAL_ERROR, AnyRun, Part
from workers.token_log import TokenLog

logger = logging.getLogger(__name__)


class Runs:
    """Sends each output of an engine step to its job, and decides who may be in the engine."""

    def __init__(self, token_log: TokenLog) -> None:
        self.meter = Meter()
        self._token_log = token_log
        self._routes: dict[str, tuple[AnyRun, Part]] = {}
        self._runs: dict[AnyRun, None] = {}
        self._inside: dict[AnyRun, None] = {}  # those in the engine
        self._batch: dict[AnyRun, None] = {}  # those in the engine that give way
        self._lane = Lane[AnyRun]()
        self._num_waiting = 0  # in the engine, after the last step
        self._gave_way = False

    @property
    def num_places(self) -> int:
        """Places of the engine that are taken or waited for."""
        return sum(run.num_places for run in self._inside)

    @property
    def has_work(self) -> bool:
        """True if the engine has something to do."""
        return bool(self._routes)

    @property
    def is_tight(self) -> bool:
        """True while the engine has no idle place for a batch job, however few jobs run."""
        return self._num_waiting > 0 or self._gave_way

    def start(self, run: AnyRun) -> None:
        """Run a job as soon as it may; its `ended` tells if the engine is not there."""
        self._runs[run] = None
        self._lane.enter(run, run.standing.crashes)
        self._start_next()
        self._token_log.flush()

    def _start_next(self) -> None:
        while (run := self._lane.next()) is not None:
            if run.ended.done():  # it was cancelled while it waited
                self._lane.leave(run)
                continue
            self._start(run)

    def _start(self, run: AnyRun) -> None:
        self._inside[run] = None
        if run.standing.is_batch:
            self._batch[run] = None
        self._attempt(run, run.start)

    def _attempt(self, run: AnyRun, move: Callable[[], None]) -> None:
        """Let a run make a move that may put sequences into the engine."""
        try:
            move()
        except EngineDied:
            self._lane.leave(run)
            run.lose_engine()
        except Exception as error:
            _fail(run, error)
        for sequence_id, part in run.fresh:
            self._routes[sequence_id] = (run, part)
        run.fresh.clear()

    def remove(self, run: AnyRun) -> None:
        """Send it nothing more."""
        self._runs.pop(run, None)
        self._inside.pop(run, None)
        self._batch.pop(run, None)
        for part in run.parts:
            self._routes.pop(run.sequence_id(part), None)
        if not (run.ended.done() and run.ended.result() == "left"):
            self._gave_way = False  # an end makes room for batch jobs again
        self._lane.leave(run)
        if self._lane.is_waiting:
            self._start_next()
            self._token_log.flush()

    def on_outputs(self, outputs: Sequence[SequenceOutput]) -> None:
        """One engine step."""
        touched: dict[AnyRun, int] = {}
        num_tokens = 0
        for output in outputs:
            route = self._routes.get(output.id)
            if route is None:  # cancelled while the step ran
                continue
            run, part = route
            self._take(run, part, output)
            touched[run] = touched.get(run, 0) + 1
            num_tokens += len(output.token_ids)
            if part.finish is not None:
                del self._routes[output.id]
        self.meter.made(num_tokens)
        self.meter.step(touched.items(), time.monotonic())
        for run in touched:
            self._attempt(run, run.end_step)
        self._note_tokens()
        self._token_log.flush()

    def _take(self, run: AnyRun, part: Part, output: SequenceOutput) -> None:
        try:
            run.take(part, output)
        except Exception as error:
            _fail(run, error)

    def _note_tokens(self) -> None:
        for run in [run for run in self._lane.watched() if run.num_new > 0]:
            self._lane.note(run, run.num_new)
        if self._lane.is_waiting:
            self._start_next()

    def on_stats(self, stats: EngineStats) -> None:
        """The gauges after a step: a batch job gives way when what waits does not get in."""
        is_stuck = stats.waiting >= self._num_waiting > 0
        self._num_waiting = stats.waiting
        if is_stuck and self._batch and len(self._batch) < self._lane.num_started:
            self._gave_way = True
            run = next(reversed(self._batch))
            del self._batch[run]
            logger.info("job %s gives way", run.job.id)
            run.hand_back()

    def on_engine_exhausted(self) -> None:
        """Nothing that runs will go on here, and nobody is to blame: memory was short."""
        self._lose_engine(Verdict(frozenset()))

    def on_engine_death(self) -> None:
        """Nothing that runs will go on."""
        self._lose_engine(self._lane.judge())

    def _lose_engine(self, verdict: Verdict[AnyRun]) -> None:
        self._num_waiting = 0
        for run in list(self._runs):
            run.lose_engine(verdict.fate(run, run.standing.crashes))


def _fail(run: AnyRun, error: Exception) -> None:
    """One job's bad luck must not end the others."""
    logger.error("job %s: %s", run.job.id, without_message(error))
    run.fail("internal_error", INTERNAL_ERROR)
