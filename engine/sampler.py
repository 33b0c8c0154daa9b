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
        *((name, np.bool_) for name in ("is_drawn", "is_penalized", "is_biased")),
        *((name, np.bool_) for name in ("is_dry", "is_restricted")),
    ],
    align=True,  # torch takes no field whose stride is not a multiple of its size
)
Records = NDArray[np.void]


class Sampler:
    """Samples a step's rows. A sequence's row must be set each time it is admitted."""

    def __init__(self, max_seqs: int, vocab_size: int, device: torch.device) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self._records = np.zeros(max_seqs, dtype=_RECORD)
        # A column of its own: where all are greedy, nothing else is read.
        self._is_special = np.zeros(max_seqs, dtype=np.bool_)
        self._bias: dict[int, tuple[Int64, NDArray[np.float32]]] = {}
        self._stop_ids: dict[int, Int64] = {}
        self._counts = TokenCounts(max_seqs, vocab_size, device)
        self._sequences: dict[int, Sequence] = {}  # those that look at their tokens

    def set(self, sequence: Sequence) -> None:
        """Take a sequence's parameters and tokens into its row."""
        row, params = sequence.row, sequence.params
        self._records[row] = _record(params, sequence.rule.min_length, self.vocab_size)
        self._is_special[row] = _is_special(params)
        bias = params.logit_bias
        self._bias[row] = (
            np.fromiter(bias.keys(), np.int64, len(bias)),
            np.fromiter(bias.values(), np.float32, len(bias)),
        )
        stop_ids = sequence.rule.stop_ids
        self._stop_ids[row] = np.fromiter(stop_ids, np.int64, len(stop_ids))
        self._sequences.pop(row, None)
        if self._records[row]["is_dry"] or self._records[row]["is_restricted"]:
            self._sequences[row] = sequence
        if self._records[row]["is_penalized"]:
            self._counts.start(row, sequence.token_ids, sequence.num_prompt_tokens)

    def sample(self, logits: Tensor, sampled: SampledRows, masks: "Masks | None" = None) -> Tensor:
        """The next id of each row of `logits` [S', V] float32; returns [S'] int64.

        `masks` has what the rows' grammars allow. The logits may be overwritten.
        """
        if not self._is_special[sampled.rows].any():
            return sampling.best(logits)
        records = self._records[sampled.rows]
        self._penalize_repetitions(logits, sampled.rows, np.flatnonzero(records["is_dry"]))
        penalized = np.flatnonzero(records["is_penalized"])
        self._penalize(logits, sampled.rows, records, penalized)
        self._add_bias(logits, sampled.rows, np.flatnonzero(records["is_biased"]))
        self._restrict(logits, sampled.rows, np.flatnonzero(records["is_restricted"]))
        self._mask_stops(logits, sampled, records)
        if masks is not None:
            self._obey(logits, sampled.rows, masks)
        ids = sampling.best(logits)
        drawn = np.flatnonzero(records["is_drawn"])
        if drawn.size:
            index = self._tensor(drawn)
            ids[index] = self._draw(logits[index], records[drawn], sampled.positions[drawn])
        if penalized.size:
            self._counts.add(self._tensor(sampled.rows[penalized]), ids[self._tensor(penalized)])
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

    def _mask_stops(self, logits: Tensor, sampled: SampledRows, records: Records) -> None:
        """Forbid the ids that would end a sequence before its min_tokens are there."""
        index = np.flatnonzero(sampled.positions < records["first_free"])
        if not index.size:
            return
        columns = [self._stop_ids[row] for row in sampled.rows[index].tolist()]
        lines = np.repeat(index, [len(ids) for ids in columns])
        logits[self._tensor(lines), self._tensor(np.concatenate(columns))] = -torch.inf

    def _obey(self, logits: Tensor, rows: Int64, masks: "Masks") -> None:
        """Leave what the grammars allow. Where other rules left nothing of that, it is all even."""
        stop_ids = [self._stop_ids[row] for row in rows[masks.lines].tolist()]
        allowed = self._tensor(masks.allowed(stop_ids))
        where = self._tensor(masks.lines)
        kept = torch.where(allowed, logits[where], -torch.inf)
        is_empty = kept.amax(-1, keepdim=True) == -torch.inf
        if is_empty.any():
            kept = torch.where(is_empty & allowed, 0.0, kept)
        logits[where] = kept

    def _draw(self, logits: Tensor, records: Records, positions: Int64) -> Tensor:
        if logits.is_cuda:  # in one go, without a sort
            temperature, top_k, top_p, min_p, seed, choice = (
                self._tensor(records[name])
                for name in ("temperature", "top_k", "top_p", "min_p", "seed", "choice")
            )
            keys = (seed, choice, self._tensor(positions))
            return ops.sample(logits, temperature, top_k, top_p, min_p, *keys)
        logits = logits / self._tensor(records["temperature"])[:, None]
        logits = self._filter(logits, records, "top_k", records["top_k"] < self.vocab_size)
        logits = self._filter(logits, records, "top_p", records["top_p"] < 1)
        logits = self._filter(logits, records, "min_p", records["min_p"] > 0)
        seeds, choices = self._tensor(records["seed"]), self._tensor(records["choice"])
        return gumbel.draw(logits, seeds, choices, self._tensor(positions))

    def _filter(
        self, logits: Tensor, records: Records, name: str, wanted: NDArray[np.bool_]
    ) -> Tensor:
        """Apply the filter `name` to the rows that want it."""
        index = np.flatnonzero(wanted)
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


def _is_special(params: SamplingParams) -> bool:
    """True if a row needs more than its largest logit."""
    return (
        _is_drawn(params)
        or _is_penalized(params)
        or _is_restricted(params)
        or params.dry is not None
        or bool(params.logit_bias or params.min_tokens or params.grammar)
    )


def _is_restricted(params: SamplingParams) -> bool:
    return bool(params.allowed_token_ids or params.bad_words)


def _is_drawn(params: SamplingParams) -> bool:
    return params.temperature >= sampling.GREEDY_BELOW


def _is_penalized(params: SamplingParams) -> bool:
    return (
        params.frequency_penalty != 0
        or params.presence_penalty != 0
        or params.repetition_penalty != 1
    )


def _record(params: SamplingParams, min_length: int, vocab_size: int) -> tuple[object, ...]:
    """The fields of `_RECORD` in their order."""
    return (
        *(params.temperature, params.top_p, params.min_p),
        *(params.frequency_penalty, params.presence_penalty, params.repetition_penalty),
        *(_signed(params.seed), params.choice),
        params.top_k if 0 < params.top_k < vocab_size else vocab_size,
        min_length if params.min_tokens else 0,
        *(_is_drawn(params), _is_penalized(params), bool(params.logit_bias)),
        *(params.dry is not None, _is_restricted(params)),
    )


def _signed(seed: int) -> int:
    """The low 64 bits of a seed as a two's complement number, which is what a tensor can hold."""
    low = seed & (1 << 64) - 1
    return low - (1 << 64) if low >> 63 else low
