"""What runs in the next step: tokens per sequence under one budget.

Knows lengths and blocks, no tensors, no clock.

There are no prefill and decode phases. A step gives every running sequence the tokens it still has
to compute, one for a decoding sequence and a chunk for one whose prompt is not through, then admits
waiting sequences in order of arrival. When blocks run out, the latest arrival gives up its blocks
and is computed again later, mostly from the prefix cache. Running sequences are older than waiting
ones, so both lists stay in order of arrival.

Some models have other rotary frequencies for long sequences (LongRoPE). A sequence that becomes one
gives up its blocks too and is computed again from its beginning, as its keys depend on them. It is
first in line then, but comes back as the last of those that run: only that one can be open.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from engine.block_manager import BlockManager
from engine.errors import InvalidInput
from engine.messages import SequenceOutput
from engine.sequence import Sequence


class Step:
    """What one forward computes: the next `num_tokens[i]` tokens of `sequences[i]`.

    `sampled` are the indices of sequences that get a new token. `admitted` joined with this step,
    `extended` were here before and have one block more.
    """

    __slots__ = ("admitted", "extended", "num_tokens", "sampled", "sequences")

    def __init__(self) -> None:
        self.sequences: list[Sequence] = []
        self.num_tokens: list[int] = []
        self.sampled: list[int] = []
        self.admitted: list[Sequence] = []
        self.extended: list[Sequence] = []

    @property
    def num_batched_tokens(self) -> int:
        """The tokens of all sequences."""
        return sum(self.num_tokens)

    def append(self, sequence: Sequence, num_tokens: int) -> None:
        """Schedule a sequence's next tokens; it samples if they are its last ones."""
        if sequence.num_computed + num_tokens == len(sequence.token_ids):
            self.sampled.append(len(self.sequences))
        self.sequences.append(sequence)
        self.num_tokens.append(num_tokens)

    def items(self) -> Iterator[tuple[Sequence, int]]:
        """Each sequence with its number of tokens."""
        return zip(self.sequences, self.num_tokens, strict=True)

    @property
    def is_decode(self) -> bool:
        """Whether each sequence has one token to compute, and samples after it."""
        return self.num_batched_tokens == len(self.sampled)

    @classmethod
    def decode(cls, sequences: list[Sequence], extended: list[Sequence]) -> "Step":
        """The step of one more token for each of some sequences, of which some got a block."""
        step = cls()
        step.sequences, step.extended = sequences, extended
        step.num_tokens, step.sampled = [1] * len(sequences), list(range(len(sequences)))
        return step


class Scheduler:
    """Waiting and running sequences.

    `max_num_batched_tokens` must be at least `max_seqs` (ValueError): a long prompt never keeps a
    decoding sequence from its token. Sequences of more than `rope_switch` tokens have the second
    set of rotary frequencies; 0: the model has only one.
    """

    def __init__(
        self,
        blocks: BlockManager,
        max_seqs: int,
        max_num_batched_tokens: int,
        rope_switch: int = 0,
    ) -> None:
        if max_num_batched_tokens < max_seqs:
            raise ValueError(
                f"max_num_batched_tokens is {max_num_batched_tokens}; "
                f"it must be at least max_seqs, which is {max_seqs}"
            )
        self.blocks = blocks
        self.max_num_batched_tokens = max_num_batched_tokens
        self.rope_switch = rope_switch
        self.waiting: OrderedDict[str, Sequence] = OrderedDict()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self._rows = list(reversed(range(max_seqs)))
        self._sequences: dict[str, Sequence] = {}

    def __contains__(self, sequence_id: str) -> bool:
        return sequence_id in self._sequences

    def __len__(self) -> int:
        return len(self._sequences)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that alone fits the pool. Raises InvalidInput for an id that is here."""
        if sequence.id in self._sequences:
            raise InvalidInput(f"a sequence with the id {sequence.id!r} is already here")
        self._sequences[sequence.id] = self.waiting[sequence.id] = sequence
        if 0 < self.rope_switch < len(sequence):
            sequence.rope_set = 1

    def cancel(self, sequence_id: str) -> None:
        """Forget a sequence and free its blocks; an unknown id is ignored."""
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is None:
            return
        if self.waiting.pop(sequence_id, None) is None:
            self.running.remove(sequence)
            self._release(sequence)

    def schedule(self) -> Step:
        """The next step, its blocks allocated. Give it back to `commit` with the sampled tokens."""
        step = Step()
        num_preemptions = self.num_preemptions
        budget = self._schedule_running(step)
        if self.waiting and self.num_preemptions == num_preemptions:
            self._schedule_waiting(step, budget)
        return step

    def follow(self, step: Step) -> Step | None:
        """The step behind one whose tokens are being made, its blocks allocated, if it is certain.

        `step` is the one step that is not committed, and decodes. None: the next one may admit or
        preempt, so it waits for `commit` and `schedule`. Sequences that are gone by now, or will be
        with their token, are not in it. One that turns out to have ended with that token is: its
        token is computed in vain and never committed.
        """
        if self.waiting and self._may_admit():
            return None
        sequences = [sequence for sequence in step.sequences if self._will_go_on(sequence)]
        num_ending = len(self.running) - len(sequences)
        if not sequences or (num_ending and (self.waiting or self.rope_switch)):
            return None
        needy = [other for other in sequences if len(other.token_ids) >= other.capacity]
        if len(needy) > self.blocks.num_free:
            return None
        for sequence in needy:
            self.blocks.extend(sequence)
        return Step.decode(sequences, needy)

    def commit(self, step: Step, token_ids: Iterable[int]) -> list[SequenceOutput]:
        """Take in what a step made, and release what has ended.

        `token_ids` are in the order of `step.sampled`.
        """
        self._advance(step)
        num_rows = len(self._rows)
        outputs = [
            self._append(step.sequences[index], token_id)
            for index, token_id in zip(step.sampled, token_ids, strict=True)
        ]
        if self.rope_switch:
            self._switch_outgrown(step)
        if len(self._rows) > num_rows:
            self.running = [sequence for sequence in self.running if sequence.row >= 0]
        return outputs

    def begin_anew(self) -> None:
        """Have every sequence computed again from its beginning, as the weights are others now."""
        self.put_back()
        self.blocks.forget_names()

    def put_back(self) -> None:
        """Have every sequence wait, those that ran first. What was committed can still be hit.

        Between two steps, or in the place of `commit`: what a step wrote is in no block with a name
        then. No token is lost, and it is not counted as a preemption.
        """
        for sequence in reversed(self.running):
            self._put_back(sequence)
        self.running = []

    def _append(self, sequence: Sequence, token_id: int) -> SequenceOutput:
        # One that only wants its prompt described has no room for a token.
        new = [token_id] if len(sequence) < sequence.rule.max_length else []
        sequence.token_ids.extend(new)
        finish = sequence.finish() if new else "length"
        if finish is not None:
            del self._sequences[sequence.id]
            self._release(sequence)
        cached_tokens, sequence.cached_tokens = sequence.cached_tokens, 0
        return SequenceOutput(
            id=sequence.id, token_ids=new, finish=finish, cached_tokens=cached_tokens
        )

    def _may_admit(self) -> bool:
        """Whether the first that waits could find a row and blocks."""
        first = next(iter(self.waiting.values()))
        return bool(self._rows) and first.refused_at != self.blocks.num_frees

    def _will_go_on(self, sequence: Sequence) -> bool:
        """Whether one more token, whatever it is, leaves a sequence running, unless it is a stop.

        Any other end, and a change to the other rope set, is a matter of length.
        """
        length = len(sequence.token_ids) + 1
        if sequence.row < 0 or length >= sequence.rule.max_length:
            return False
        return not self.rope_switch or length != self.rope_switch + 1

    def _switch_outgrown(self, step: Step) -> None:
        """Have those that just became too long for the first rope set computed with the second."""
        for index in reversed(step.sampled):
            sequence = step.sequences[index]
            has_ended = sequence.row < 0
            if len(sequence) == self.rope_switch + 1 and not has_ended:
                sequence.rope_set = 1
                sequence.hashes.clear()
                self._put_back(sequence)

    def _schedule_running(self, step: Step) -> int:
        """Fill `step` with the running sequences; the budget that is left.

        Victims of a preemption are always later in the list than what is scheduled already.
        """
        budget = self.max_num_batched_tokens
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            index += 1
            length = len(sequence.token_ids)
            if length > sequence.capacity and not self._extend(sequence, step):
                break
            # Only the last one can want more: nothing is admitted behind an open prompt.
            num_tokens = min(length - sequence.num_computed, budget)
            budget -= num_tokens
            step.append(sequence, num_tokens)
        return budget

    def _extend(self, sequence: Sequence, step: Step) -> bool:
        """One more block, if need be from later arrivals; False if the sequence itself gave way."""
        while not self.blocks.extend(sequence):
            victim = self.running.pop()
            self._preempt(victim)
            if victim is sequence:
                return False
        step.extended.append(sequence)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._put_back(sequence)
        self.num_preemptions += 1

    def _put_back(self, sequence: Sequence) -> None:
        self._release(sequence)
        self.waiting[sequence.id] = sequence
        self.waiting.move_to_end(sequence.id, last=False)

    def _schedule_waiting(self, step: Step, budget: int) -> None:
        while self.waiting and self._rows and budget > 0:
            sequence = next(iter(self.waiting.values()))
            if not self._admit(sequence):
                return
            del self.waiting[sequence.id]
            num_tokens = min(len(sequence) - sequence.num_computed, budget)
            budget -= num_tokens
            step.append(sequence, num_tokens)
            step.admitted.append(sequence)

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence blocks and a row.

        False, and nothing given, unless each running one could still grow by a block afterwards.
        """
        if sequence.refused_at == self.blocks.num_frees:
            # Nothing came back since; a long prompt need not be matched again in every step.
            return False
        num_spare = sum(other.capacity < other.rule.max_length for other in self.running)
        if not self.blocks.admit(sequence, num_spare):
            sequence.refused_at = self.blocks.num_frees
            return False
        sequence.row = self._rows.pop()
        self.running.append(sequence)
        if not sequence.was_admitted:
            self._count_hits(sequence)
        return True

    def _count_hits(self, sequence: Sequence) -> None:
        sequence.was_admitted = True
        sequence.cached_tokens = min(sequence.num_computed, sequence.num_prompt_tokens)
        self.prefix_queries += sequence.num_prompt_tokens
        self.prefix_hits += sequence.cached_tokens

    def _release(self, sequence: Sequence) -> None:
        self.blocks.free(sequence)
        self._rows.append(sequence.row)
        sequence.row = -1

    def _advance(self, step: Step) -> None:
        block_size = self.blocks.block_size
        for sequence, num_tokens in step.items():
            num_computed = sequence.num_computed = sequence.num_computed + num_tokens
            if num_computed - sequence.num_hittable * block_size >= block_size:
                self.blocks.commit(sequence)
