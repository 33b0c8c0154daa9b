"""Draws by the Gumbel-max trick: the best sum of logit and noise. Knows tensors only.

On a CPU the noise of a whole vocabulary is most of a draw, and in most rows few tokens can win.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from engine.sampling import best
from kernels.ops import uniform, uniform_quads

_MAX_NOISE = np.float32(16.7)  # a little above 24 ln 2, the noise of the largest uniform
_GROUP_TOKENS = 1 << 17  # in the rows that are drawn together: what a core's cache holds


class _Keys(NamedTuple):
    """What the noise of R rows is a function of, each [R] int64."""

    seeds: Tensor
    choices: Tensor
    positions: Tensor


def draw(logits: Tensor, seeds: Tensor, choices: Tensor, positions: Tensor) -> Tensor:
    """One id per row of `logits` [R, V] from its softmax. The rest [R] int64; returns [R] int64.

    It is the best of `logits + gumbel_noise(uniform(seeds, choices, positions, V))`, on a CPU too.
    """
    keys = _Keys(seeds, choices, positions)
    if logits.device.type != "cpu":
        return _draw_plainly(logits, keys)
    size = max(1, _GROUP_TOKENS // logits.shape[-1])
    if len(logits) <= size:
        return _draw_by_bounds(logits, keys)
    groups = (slice(start, start + size) for start in range(0, len(logits), size))
    return torch.cat([_draw_by_bounds(logits[g], _Keys(*(key[g] for key in keys))) for g in groups])


def gumbel_noise(uniforms: Tensor) -> Tensor:
    """The noise that each of `uniforms` stands for."""
    return -(-uniforms.log()).log()


def _draw_plainly(logits: Tensor, keys: _Keys) -> Tensor:
    noise = gumbel_noise(uniform(keys.seeds, keys.choices, keys.positions, logits.shape[-1]))
    return best(logits + noise)


def _draw_by_bounds(logits: Tensor, keys: _Keys) -> Tensor:
    """The same ids, with noise for those quads of tokens alone that can still win.

    A quad cannot if `_MAX_NOISE` would leave its tokens below a sum that is there already: the best
    one in the quad of the row's best logit.
    """
    values = pad(logits, (0, -logits.shape[-1] % 4), value=-torch.inf).numpy()
    quads = values.reshape(len(logits), -1, 4)
    num_rows, num_quads, _ = quads.shape
    rows, likely = np.arange(num_rows), logits.numpy().argmax(-1) // 4
    # About what the sum there will be; where it bounds little, there is nothing to save.
    if 2 * len(_in_reach(values, quads[rows, likely].max(-1))) > num_rows * num_quads:
        return _draw_plainly(logits, keys)
    places = _in_reach(values, _sums(quads, rows, likely, keys).max(-1))
    bounds = np.searchsorted(places, np.arange(num_rows + 1) * num_quads)
    rows = np.repeat(rows, np.diff(bounds))
    index = places - rows * num_quads
    sums = _sums(quads, rows, index, keys)
    winners = [4 * first + sums[first:end].argmax() for first, end in pairwise(bounds)]
    return torch.tensor([4 * index[winner // 4] + winner % 4 for winner in winners])


def _in_reach(values: NDArray[np.float32], sums: NDArray[np.float32]) -> NDArray[np.int64]:
    """The quads of `values` [R, V], counted over all rows, that may reach the `sums` [R]."""
    is_beaten = values + _MAX_NOISE < sums[:, None]  # with a NaN in a row nothing of it is
    return np.flatnonzero((~is_beaten).view(np.uint32))  # four tokens, a byte each


def _sums(
    quads: NDArray[np.float32], rows: NDArray[np.int64], index: NDArray[np.int64], keys: _Keys
) -> NDArray[np.float32]:
    """Logits [R, V / 4, 4] and noise of the quads at `index` of `rows`, both [N]; [N, 4]."""
    uniforms = uniform_quads(*keys, torch.from_numpy(rows), torch.from_numpy(index))
    sums: NDArray[np.float32] = quads[rows, index] + gumbel_noise(uniforms).numpy()
    return sums
