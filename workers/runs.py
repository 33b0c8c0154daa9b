"""The jobs that run: into the engine in their turn, out with each step. Knows no Redis.

Everything here is synchronous and costs a step what its outputs cost; what only suspects and batch
jobs need is looked at when there are some.
"""

import logging
import time
from collections.abc import Sequence

from engine.messages import EngineStats, SequenceOutput
from workers.blame import Lane
from workers.choice import Choice
from workers.engine_process import EngineDied
from workers.job_run import INTERNAL_ERROR, JobRun
from workers.logs import without_message
from workers.meter import Meter
from workers.token_log import TokenLog

logger = logging.getLogger(__name__)


class Runs:
    """Sends each output of an engine step to its job, and decides who may be in the engine."""

    def __init__(self, token_log: TokenLog) -> None:
        self.meter = Meter()
        self._token_log = token_log
        self._routes: dict[str, tuple[JobRun, Choice]] = {}
        self._runs: dict[JobRun, None] = {}
        self._batch: dict[JobRun, None] = {}  # those in the engine that give way
        self._lane = Lane[JobRun]()
        self._num_waiting = 0  # in the engine, after the last step
        self._gave_way = False

    @property
    def num_sequences(self) -> int:
        """Sequences in the engine, waiting ones included."""
        return len(self._routes)

    @property
    def has_work(self) -> bool:
        """True if the engine has something to do."""
        return bool(self._routes)

    @property
    def is_tight(self) -> bool:
        """True while the engine has no idle place for a batch job, however few jobs run."""
        return self._num_waiting > 0 or self._gave_way

    def start(self, run: JobRun) -> None:
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

    def _start(self, run: JobRun) -> None:
        for sequence_id, choice in run.sequence_ids().items():
            self._routes[sequence_id] = (run, choice)
        if run.standing.is_batch:
            self._batch[run] = None
        try:
            run.start()
        except EngineDied:
            self._lane.leave(run)
            run.lose_engine()
        except Exception as error:
            _fail(run, error)

    def remove(self, run: JobRun) -> None:
        """Send it nothing more."""
        self._runs.pop(run, None)
        self._batch.pop(run, None)
        for choice in run.choices:
            self._routes.pop(run.sequence_id(choice), None)
        if not (run.ended.done() and run.ended.result() == "left"):
            self._gave_way = False  # an end makes room for batch jobs again
        self._lane.leave(run)
        if self._lane.is_waiting:
            self._start_next()
            self._token_log.flush()

    def on_outputs(self, outputs: Sequence[SequenceOutput]) -> None:
        """One engine step."""
        touched: dict[JobRun, int] = {}
        num_tokens = 0
        for output in outputs:
            route = self._routes.get(output.id)
            if route is None:  # cancelled while the step ran
                continue
            run, choice = route
            self._take(run, choice, output)
            touched[run] = touched.get(run, 0) + 1
            num_tokens += len(output.token_ids)
            if choice.finish is not None:
                del self._routes[output.id]
        self.meter.made(num_tokens)
        self.meter.step(touched.items(), time.monotonic())
        for run in touched:
            run.end_step()
        self._note_tokens()
        self._token_log.flush()

    def _take(self, run: JobRun, choice: Choice, output: SequenceOutput) -> None:
        try:
            run.take(choice, output)
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

    def on_engine_death(self) -> None:
        """Nothing that runs will go on."""
        verdict = self._lane.judge()
        self._num_waiting = 0
        for run in list(self._runs):
            run.lose_engine(verdict.fate(run, run.standing.crashes))


def _fail(run: JobRun, error: Exception) -> None:
    """One job's bad luck must not end the others."""
    logger.error("job %s: %s", run.job.id, without_message(error))
    run.fail("internal_error", INTERNAL_ERROR)
