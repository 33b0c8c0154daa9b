"""One sequence on its way through the engine: its tokens, and where their KV lies.

Knows no scheduler.
"""

from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING

from engine.config import SamplingParams
from engine.messages import SequenceRequest
from engine.stopping import Finish, StopRule

if TYPE_CHECKING:
    from engine.grammar import Grammar


class Sequence:
    """The state of a sequence. The scheduler and the block manager write it, the runner reads it.

    `token_ids` holds prompt and output; the first `num_computed` have their KV in the cache.
    `blocks` is the block table, `capacity` the number of tokens it holds room for. `hashes` are the
    digests of its leading full blocks and `num_hittable` says how many blocks the prefix cache has
    seen; the digests outlive a preemption. `row` is the sequence's place in per-sequence tables
    while it runs, -1 while it waits. `rope_set` is the set of rotary frequencies that all its
    tokens are computed with: 0, and 1 once it is too long for that, in a model that has two.
    `grammar` is where it stands in the one that it follows.
    While it `wants_prompt_logprobs`, which a forward gives, its prompt is not taken from the cache.
    """

    __slots__ = (
        "blocks",
        "cached_tokens",
        "capacity",
        "grammar",
        "hashes",
        "id",
        "num_computed",
        "num_hittable",
        "num_prompt_tokens",
        "params",
        "refused_at",
        "rope_set",
        "row",
        "rule",
        "salt",
        "token_ids",
        "wants_prompt_logprobs",
        "was_admitted",
    )

    def __init__(self, request: SequenceRequest, eos_ids: Iterable[int], max_length: int) -> None:
        self.id = request.id
        self.params: SamplingParams = request.params
        self.salt = request.salt
        # Machine integers: a slice is one copy, and no token becomes a Python object on its way to
        # numpy or to a hash.
        self.token_ids = array("i", request.prompt_ids)
        self.token_ids.extend(request.output_ids)
        self.num_prompt_tokens = len(request.prompt_ids)
        self.rule = StopRule.of(self.params, self.num_prompt_tokens, eos_ids, max_length)
        self.num_computed = 0
        self.grammar: Grammar | None = None
        self.blocks: list[int] = []
        self.capacity = 0
        self.hashes: list[bytes] = []
        self.num_hittable = 0
        self.row = -1
        self.cached_tokens = 0  # prompt tokens found in the prefix cache and not yet reported
        self.was_admitted = False
        self.rope_set = 0
        self.wants_prompt_logprobs = self.params.num_prompt_logprobs is not None
        self.refused_at = -1  # the block manager's `num_frees` when there was last no room

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def output_ids(self) -> "array[int]":
        """The generated tokens, those of earlier attempts included."""
        return self.token_ids[self.num_prompt_tokens :]

    def finish(self) -> Finish | None:
        """Why the sequence as it stands has ended; None while it goes on."""
        if self.grammar is not None and self.grammar.is_over:
            return "stop"
        return self.rule.check(self.token_ids[-1], len(self.token_ids))
