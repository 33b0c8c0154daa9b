"""Where sequences stand in their grammars, and which tokens may come next (llguidance).

Knows ids and grammar texts, neither logits nor a schedule. A grammar is compiled in a thread, and a
step's masks are computed in another while the forward runs: llguidance lets go of the interpreter.
"""

import os
from collections.abc import Callable, Collection, Sequence as Items
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import NamedTuple

import numpy as np
from llguidance import LLExecutor, LLMatcher
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par
from numpy.typing import NDArray

from engine.batch import Int64
from engine.errors import InvalidInput
from engine.text.grammar import Matching, error_of, make_matcher, make_vocabulary
from engine.text.tokenizer import Tokenizer

_NUM_COMPILERS = 2  # a slow grammar leaves the other to those that wait with it
_MAX_MASK_THREADS = 4


class Grammar:
    """The state of one sequence. It outlives a preemption; `is_over` when nothing can follow.

    `error` says why the grammar cannot go on, if so.
    """

    __slots__ = ("error", "is_over", "matcher")

    def __init__(self, matcher: LLMatcher, output_ids: Items[int] = ()) -> None:
        """`output_ids` were made before. Raises InvalidInput if they do not follow the grammar.

        Takes its time for the first mask, which is often the most expensive one.
        """
        self.matcher = matcher
        self.error = ""
        self.is_over = False
        self.accept(output_ids)
        if not (self.error or self.is_over):
            matcher.compute_bitmask()
            self.look()
        if self.error:
            raise InvalidInput(f"The grammar cannot be followed: {self.error}", "grammar")

    def accept(self, token_ids: Items[int]) -> None:
        """Go on behind these."""
        self.matcher.consume_tokens(list(token_ids))
        self.look()

    def look(self) -> None:
        """See if the grammar is over or has become too much for its limits."""
        if self.matcher.is_error():
            self.error = error_of(self.matcher)
        else:
            self.is_over = self.matcher.is_stopped()


class Bound(NamedTuple):
    """A row of logits that must follow a grammar, and the ids that end its sequence."""

    line: int
    grammar: Grammar
    stop_ids: Collection[int]


class Masks:
    """A step's masks: `lines` are the rows of logits that have one."""

    def __init__(self, rows: Items[Bound], vocab_size: int, eos_ids: Items[int]) -> None:
        self.lines: Int64 = np.asarray([row.line for row in rows], dtype=np.int64)
        self._rows = rows
        self._vocab_size = vocab_size
        self._eos_ids = list(eos_ids)
        self.computed: Future[NDArray[np.bool_]]

    def compute(self, executor: LLExecutor) -> NDArray[np.bool_]:
        """What must not come next [G, V]; for a thread.

        Where the grammar may end, so may the sequence, by any of its own ids.
        """
        bits = allocate_token_bitmask(len(self._rows), self._vocab_size)
        matchers = [(row.grammar.matcher, index) for index, row in enumerate(self._rows)]
        fill_next_token_bitmask_par(executor, matchers, bits)
        words = np.invert(bits).view(np.uint8)
        forbidden = np.unpackbits(words, axis=1, count=self._vocab_size, bitorder="little")
        for row, is_out in zip(self._rows, forbidden, strict=True):
            if not is_out[self._eos_ids].all():
                is_out[list(row.stop_ids)] = 0
        return forbidden.view(np.bool_)

    def forbidden(self) -> NDArray[np.bool_]:
        """What `compute` made, once it is there."""
        return self.computed.result()


class Grammars:
    """Compiles the grammars of one model's sequences and computes their masks."""

    def __init__(
        self, load: Callable[[], Tokenizer], vocab_size: int, eos_ids: Items[int] = ()
    ) -> None:
        """`load` gives the model's tokenizer, when the first grammar comes."""
        self._load = load
        self._vocab_size = vocab_size
        self._more_eos_ids = eos_ids
        self._compilers = ThreadPoolExecutor(_NUM_COMPILERS, "grammar")
        self._masker = ThreadPoolExecutor(1, "masks")

    def compile(self, grammar: str, output_ids: Items[int]) -> "Future[Grammar]":
        """A grammar at work behind `output_ids`. The future raises InvalidInput."""
        return self._compilers.submit(self._compile, grammar, list(output_ids))

    def _compile(self, grammar: str, output_ids: Items[int]) -> Grammar:
        return Grammar(make_matcher(self._vocabulary.tokenizer, grammar), output_ids)

    def begin(self, rows: Items[Bound]) -> Masks:
        """Begin to compute what may come next."""
        masks = Masks(rows, self._vocab_size, self._vocabulary.eos_ids)
        masks.computed = self._masker.submit(masks.compute, self._executor)
        return masks

    @cached_property
    def _vocabulary(self) -> Matching:
        return make_vocabulary(self._load(), self._vocab_size, self._more_eos_ids)

    @cached_property
    def _executor(self) -> LLExecutor:
        return LLExecutor(min(_MAX_MASK_THREADS, os.cpu_count() or 1))
