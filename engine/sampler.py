"""The sampling state of running sequences, a row each; what a step's rows need. Knows no formulas.

Parameters lie in one numpy record per row, so picking a step's rows is one operation, whatever
their number.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine import gumbel, history, sampling
from engine.batch import Int64, SampledRows
from engine.config import SamplingParams
from engine.penalties import TokenCounts
from engine.sequence import Sequence
from kernels import ops

if TYPE_CHECKING:
    from engine.grammar import Masks

_RECORD = np.dtype(
    [
        *((name, np.float32) for name in ("temperature", "top_p", "min_p")),
        *((name, np.float32) for name in ("frequency", "presence", "repetition")),
        *((name, np.int64) for name in ("seed", "choice", "top_k", "first_free")),
    ],
    align=True,  # torch takes no field whose stride is not a multiple of its size
)
Records = NDArray[np.void]

# What a row may need beyond its largest logit, a bit each: most steps need one or two of them, and
# looking for the others' rows would be most of a small step's time.
_PENALTIES, _BIAS, _DRY, _WORDS, _MIN_TOKENS, _GRAMMAR = (1 << i for i in range(6))
_DRAW, _TOP_K, _TOP_P, _MIN_P = (1 << i for i in range(6, 10))
_LOGPROBS = 1 << 10
# What `ops.sample` does not do.
_BEYOND_KERNEL = _PENALTIES | _BIAS | _DRY | _WORDS | _GRAMMAR | _LOGPROBS
_NO_LINES: Int64 = np.empty(0, np.int64)


class _Needs:
    """The lines of a step that need something."""

    def __init__(self, bits: NDArray[np.uint16]) -> None:
        self._bits = bits
        self._union = int(np.bitwise_or.reduce(bits))

    def __bool__(self) -> bool:
        return self._union != 0

    def of(self, need: int) -> Int64:
        """The lines that need one thing."""
        return (self._bits & need).nonzero()[0] if self._union & need else _NO_LINES

    def pick(self, lines: Int64) -> "_Needs":
        """Those of some lines."""
        return self if lines.size == self._bits.size else _Needs(self._bits[lines])


class Sampler:
    """Samples a step's rows. A sequence's row must be set each time it is admitted."""

    def __init__(self, max_seqs: int, vocab_size: int, device: torch.device) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self._records = np.zeros(max_seqs, dtype=_RECORD)
        # A column of its own: where all are greedy, nothing else is read.
        self._needs = np.zeros(max_seqs, dtype=np.uint16)
        self._bias: dict[int, tuple[Int64, NDArray[np.float32]]] = {}
        self._stop_ids: dict[int, Int64] = {}
        self._counts = TokenCounts(max_seqs, vocab_size, device)
        self._sequences: dict[int, Sequence] = {}  # those that look at their tokens

    def set(self, sequence: Sequence) -> None:
        """Take a sequence's parameters and tokens into its row."""
        row, params = sequence.row, sequence.params
        self._records[row] = _record(params, sequence.rule.min_length, self.vocab_size)
        needs = _needs(params, self.vocab_size)
        self._needs[row] = needs
        bias = params.logit_bias
        self._bias[row] = (
            np.fromiter(bias.keys(), np.int64, len(bias)),
            np.fromiter(bias.values(), np.float32, len(bias)),
        )
        stop_ids = sequence.rule.stop_ids
        self._stop_ids[row] = np.fromiter(stop_ids, np.int64, len(stop_ids))
        self._sequences.pop(row, None)
        if needs & (_DRY | _WORDS):
            self._sequences[row] = sequence
        if needs & _PENALTIES:
            self._counts.start(row, sequence.token_ids, sequence.num_prompt_tokens)

    def is_plain(self, sampled: SampledRows) -> bool:
        """Whether `ops.sample` with the rows' `settings` makes all of it, now and ever after."""
        needs = _Needs(self._needs[sampled.rows])
        if needs.of(_BEYOND_KERNEL).size:
            return False
        lines = needs.of(_MIN_TOKENS)
        first_free = self._records["first_free"][sampled.rows[lines]]
        return bool((sampled.positions[lines] >= first_free).all())

    def settings(self, rows: Int64) -> Records:
        """What `set` took from the sequences in `rows`: temperature, top_k, seed and so on."""
        return self._records[rows]

    def sample(self, logits: Tensor, sampled: SampledRows, masks: "Masks | None" = None) -> Tensor:
        """The next id of each row of `logits` [S', V] float32; returns [S'] int64.

        `masks` has what the rows' grammars allow. The logits may be overwritten.
        """
        needs = _Needs(self._needs[sampled.rows])
        if not needs:
            return sampling.best(logits)
        records = self._records[sampled.rows]
        self._penalize_repetitions(logits, sampled.rows, needs.of(_DRY))
        penalized = needs.of(_PENALTIES)
        self._penalize(logits, sampled.rows, records, penalized)
        self._add_bias(logits, sampled.rows, needs.of(_BIAS))
        self._restrict(logits, sampled.rows, needs.of(_WORDS))
        self._mask_stops(logits, sampled, records, needs.of(_MIN_TOKENS))
        if masks is not None:
            sampling.forbid(logits, masks.lines, masks.forbidden())
        ids = self._choose(logits, sampled, records, needs)
        if penalized.size:
            self._counts.add(self._tensor(sampled.rows[penalized]), ids[self._tensor(penalized)])
        return ids

    def _choose(
        self, logits: Tensor, sampled: SampledRows, records: Records, needs: _Needs
    ) -> Tensor:
        """The best id of each greedy row, a drawn one of the others."""
        drawn = needs.of(_DRAW)
        if drawn.size == len(records):
            return self._draw(logits, records, sampled.positions, needs)
        ids = sampling.best(logits)
        if drawn.size:
            index, positions = self._tensor(drawn), sampled.positions[drawn]
            ids[index] = self._draw(logits[index], records[drawn], positions, needs.pick(drawn))
        return ids

    def _penalize_repetitions(self, logits: Tensor, rows: Int64, index: Int64) -> None:
        for line in index.tolist():
            sequence = self._sequences[int(rows[line])]
            assert sequence.params.dry is not None
            history.penalize_repetition(logits[line], sequence.token_ids, sequence.params.dry)

    def _restrict(self, logits: Tensor, rows: Int64, index: Int64) -> None:
        """Leave what a row may say, less what would complete a bad word."""
        for line in index.tolist():
            sequence = self._sequences[int(rows[line])]
            params = sequence.params
            if params.allowed_token_ids:
                allowed = self._tensor(np.asarray(params.allowed_token_ids))
                kept = logits[line, allowed]
                logits[line].fill_(-torch.inf)
                logits[line, allowed] = kept
            bad = history.forbidden_ids(sequence.output_ids, params.bad_words)
            logits[line, self._tensor(np.asarray(bad, dtype=np.int64))] = -torch.inf

    def _penalize(self, logits: Tensor, rows: Int64, records: Records, index: Int64) -> None:
        if not index.size:
            return
        picked, where = records[index], self._tensor(index)
        counts, seen = self._counts.of(self._tensor(rows[index]))
        factors = (self._tensor(picked[name]) for name in ("frequency", "presence", "repetition"))
        logits[where] = sampling.penalize(logits[where], counts, seen, *factors)

    def _add_bias(self, logits: Tensor, rows: Int64, index: Int64) -> None:
        if not index.size:
            return
        pairs = [self._bias[row] for row in rows[index].tolist()]
        lines = np.repeat(index, [len(ids) for ids, _ in pairs])
        columns = np.concatenate([ids for ids, _ in pairs])
        values = self._tensor(np.concatenate([values for _, values in pairs]))
        logits[self._tensor(lines), self._tensor(columns)] += values

    def _mask_stops(
        self, logits: Tensor, sampled: SampledRows, records: Records, index: Int64
    ) -> None:
        """Forbid the ids that would end a sequence before its min_tokens are there."""
        index = index[sampled.positions[index] < records["first_free"][index]]
        if not index.size:
            return
        columns = [self._stop_ids[row] for row in sampled.rows[index].tolist()]
        lines = np.repeat(index, [len(ids) for ids in columns])
        logits[self._tensor(lines), self._tensor(np.concatenate(columns))] = -torch.inf

    def _draw(self, logits: Tensor, records: Records, positions: Int64, needs: _Needs) -> Tensor:
        if logits.is_cuda:  # in one go, without a sort
            temperature, top_k, top_p, min_p, seed, choice = (
                self._tensor(records[name])
                for name in ("temperature", "top_k", "top_p", "min_p", "seed", "choice")
            )
            keys = (seed, choice, self._tensor(positions))
            return ops.sample(logits, temperature, top_k, top_p, min_p, *keys)
        logits = logits / self._tensor(records["temperature"])[:, None]
        logits = self._filter(logits, records, "top_k", needs.of(_TOP_K))
        logits = self._filter(logits, records, "top_p", needs.of(_TOP_P))
        logits = self._filter(logits, records, "min_p", needs.of(_MIN_P))
        seeds, choices = self._tensor(records["seed"]), self._tensor(records["choice"])
        return gumbel.draw(logits, seeds, choices, self._tensor(positions))

    def _filter(self, logits: Tensor, records: Records, name: str, index: Int64) -> Tensor:
        """Apply the filter `name` to the rows that want it."""
        if not index.size:
            return logits
        keep = {
            "top_k": sampling.keep_top_k,
            "top_p": sampling.keep_top_p,
            "min_p": sampling.keep_min_p,
        }[name]
        limits = self._tensor(records[name][index])
        if index.size == len(records):
            return keep(logits, limits)
        where = self._tensor(index)
        logits[where] = keep(logits[where], limits)
        return logits

    def _tensor(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


def _needs(params: SamplingParams, vocab_size: int) -> int:
    """The bits of what a row needs."""
    wanted = {
        _PENALTIES: params.frequency_penalty != 0
        or params.presence_penalty != 0
        or params.repetition_penalty != 1,
        _BIAS: params.logit_bias,
        _DRY: params.dry is not None,
        _WORDS: params.allowed_token_ids or params.bad_words,
        _MIN_TOKENS: params.min_tokens,
        _GRAMMAR: params.grammar,
        _DRAW: params.temperature >= sampling.GREEDY_BELOW,
        _TOP_K: 0 < params.top_k < vocab_size,
        _TOP_P: params.top_p < 1,
        _MIN_P: params.min_p > 0,
        _LOGPROBS: params.num_logprobs is not None,
    }
    return sum(bit for bit, is_wanted in wanted.items() if is_wanted)


def _record(params: SamplingParams, min_length: int, vocab_size: int) -> tuple[object, ...]:
    """The fields of `_RECORD` in their order."""
    return (
        *(params.temperature, params.top_p, params.min_p),
        *(params.frequency_penalty, params.presence_penalty, params.repetition_penalty),
        *(_signed(params.seed), params.choice),
        params.top_k if 0 < params.top_k < vocab_size else vocab_size,
        min_length,
    )


def _signed(seed: int) -> int:
    """The low 64 bits of a seed as a two's complement number, which is what a tensor can hold."""
    low = seed & (1 << 64) - 1
    return low - (1 << 64) if low >> 63 else low
