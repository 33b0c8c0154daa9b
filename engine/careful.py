"""Attempts an engine's steps where memory may run out: a step that does not fit leaves no trace.

Whatever such a step has written lies in blocks that the prefix cache has no name for yet, and in
per-row state that is made anew when a sequence is admitted. So all sequences are put back and go on
from what was committed, in smaller steps. If even one token does not fit, a token of a sequence
made for this tells whose fault that is. If it is the sequence's, the others go first, as memory may
come back, and it ends when it has failed too often. If it is nobody's, the engine waits a little
before it gives up.
"""

import gc
import logging
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from engine.config import SamplingParams
from engine.errors import OutOfMemory
from engine.memory import memory_of
from engine.messages import SequenceOutput, SequenceRequest
from engine.runner import Sampled
from engine.scheduler import Scheduler, Step
from engine.sequence import Sequence
from engine.shortage import is_shortage, no_memory
from engine.step_budget import StepBudget

logger = logging.getLogger(__name__)

Made = TypeVar("Made")

# Steps that did not fit since its last token, after which a sequence ends; alone they weigh more.
_MAX_BLAME = 24
_BLAME_ALONE = 8
PAUSES_S = (0.05, 0.2, 0.5, 1.0)
_TRIAL = SequenceRequest(
    id="\0trial", prompt_ids=[0], params=SamplingParams(max_tokens=1, temperature=1.0)
)
_REFUSAL = (
    "The request does not fit the memory that the server has left, however few tokens are computed "
    "at a time; shorten it, or ask for less beside its text, such as log-probabilities."
)


class Careful:
    """Attempts the steps of a scheduler; one at a time, but for `attempt_ahead`."""

    def __init__(
        self,
        scheduler: Scheduler,
        run: Callable[[Step], Sampled],
        device: torch.device,
        *,
        forget: Callable[[str], None],
    ) -> None:
        """`run` computes any step; `forget` is told of sequences that end here."""
        self._scheduler = scheduler
        self._run = run
        self._device = device
        self._forget = forget
        self._budget = StepBudget(scheduler.max_num_batched_tokens)
        self._blame: dict[str, int] = {}  # by sequence
        self._num_pauses = 0
        self._is_torn = False
        self._refused: list[SequenceOutput] = []

    def attempt(self, step: Step, compute: Callable[[Step], Made]) -> Made | None:
        """What `compute` makes of a step; None if it did not fit: then schedule another one.

        Raises OutOfMemory if no step fits any more; all sequences are still in the scheduler.
        """
        made = self._try(step, compute)
        if made is None:
            self._give_way(step)
            return None
        if not self._is_well:
            self._note_good(step)
        return made

    @property
    def _is_well(self) -> bool:
        """True while nothing is remembered of a step that did not fit."""
        return self._budget.now == self._budget.most and not (self._blame or self._num_pauses)

    def attempt_ahead(self, step: Step, compute: Callable[[Step], Made]) -> Made | None:
        """As `attempt`, behind a step that is still to be committed; then call `settle`."""
        made = self._try(step, compute)
        self._is_torn = made is None
        return made

    def settle(self) -> None:
        """Undo what was attempted ahead and did not fit, now that all else is committed."""
        if self._is_torn:
            self._is_torn = False
            self._scheduler.put_back()

    def take_refused(self) -> list[SequenceOutput]:
        """The ends of sequences that cannot go on in this memory, each once."""
        refused, self._refused = self._refused, []
        return refused

    def _try(self, step: Step, compute: Callable[[Step], Made]) -> Made | None:
        try:
            return compute(step)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            logger.warning("%s", str(error).partition("\n")[0])
        return None  # only now is the error gone, and with it all that its frames hold

    def _note_good(self, step: Step) -> None:
        self._budget.note_good()
        self._scheduler.max_num_batched_tokens = self._budget.now
        for index in step.sampled:
            self._blame.pop(step.sequences[index].id, None)
            self._num_pauses = 0  # a step in the middle of a prompt proves little

    def _give_way(self, step: Step) -> None:
        self._scheduler.put_back()
        if self._device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
        num_tokens = step.num_batched_tokens
        if num_tokens > 1:
            self._shrink(num_tokens)
            self._add_blame(step.sequences, 1)
        elif self._fits_trial():
            self._scheduler.waiting.move_to_end(step.sequences[0].id)
            self._add_blame(step.sequences, _BLAME_ALONE)
        else:
            self._wait()

    def _shrink(self, num_tokens: int) -> None:
        self._budget.shrink(num_tokens)
        self._scheduler.max_num_batched_tokens = self._budget.now
        logger.warning(
            "a step of %d tokens does not fit the memory of %s (%s): for a while none has more "
            "than %d; a lower --max-num-batched-tokens or --pa-gpu-mem-usage would spare that",
            num_tokens,
            self._device,
            memory_of(self._device),
            self._budget.now,
        )

    def _fits_trial(self) -> bool:
        """True if a plain token fits."""
        trial = Sequence(_TRIAL, (), 2)
        trial.was_admitted = True  # it counts in no statistics of the prefix cache
        self._scheduler.add(trial)
        self._scheduler.waiting.move_to_end(trial.id, last=False)
        self._scheduler.max_num_batched_tokens = 1
        try:
            return self._try(self._scheduler.schedule(), self._run) is not None
        finally:
            self._scheduler.cancel(trial.id)
            self._scheduler.max_num_batched_tokens = self._budget.now

    def _wait(self) -> None:
        """Let another process give memory back. Raises OutOfMemory when that was long enough."""
        if self._num_pauses == len(PAUSES_S):
            self._num_pauses = 0
            raise OutOfMemory(no_memory(self._device))
        time.sleep(PAUSES_S[self._num_pauses])
        self._num_pauses += 1

    def _add_blame(self, sequences: list[Sequence], weight: int) -> None:
        """No sequence may be computed for ever without a token."""
        blame = {id_: count for id_, count in self._blame.items() if id_ in self._scheduler}
        for sequence in sequences:
            blame[sequence.id] = blame.get(sequence.id, 0) + weight
            if blame[sequence.id] >= _MAX_BLAME:
                self._refuse(sequence)
        self._blame = blame

    def _refuse(self, sequence: Sequence) -> None:
        logger.warning("sequence %s ends: it does not fit the memory", sequence.id)
        self._scheduler.cancel(sequence.id)
        self._forget(sequence.id)
        self._refused.append(SequenceOutput(id=sequence.id, error=(OutOfMemory.code, _REFUSAL)))
