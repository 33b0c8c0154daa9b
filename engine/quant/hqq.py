"""HQQ4 and HQQ8: half-quadratic quantisation, 4 or 8 bits a weight and two numbers for 64 of them.

Sources: mobiusml.github.io/hqq_blog; mistral.rs' hqq/optimize.rs, whose numbers these are. A matrix
is reshaped to [64, M]; a column is a group, so its weights lie M apart. A weight is (q - zero) *
scale. Codes of 4 bits: row i of 32 has row i of 64 in its high and row i + 32 in its low halves.
"""

from functools import partial

import torch
from torch import Tensor

from engine.quant.tensor_format import PackedTensor, TensorFormat

_GROUP = 64
_LARGEST_SCALE = 2e4
_NUM_ROUNDS = 10
_NORM = 0.7
_FIRST_BETA = 10.0
_KAPPA = 1.01
_COLUMNS = 1 << 12  # at a time: the rounds make several copies of them


def quantize(bits: int, weights: Tensor) -> PackedTensor:
    """codes [32 or 64, M], scales [M], zeros [M]."""
    if not weights.numel() or weights.numel() % _GROUP:
        raise ValueError(f"{weights.numel()} weights are no whole number of HQQ groups ({_GROUP})")
    groups = weights.reshape(_GROUP, -1).float()
    if not groups.isfinite().all():
        raise ValueError("there are weights that are infinite or not a number")
    top = 2**bits - 1
    least = groups.amin(0)
    to_code = (top / (groups.amax(0) - least)).clamp_(max=_LARGEST_SCALE)
    zeros = _find_zeros(groups, to_code, -least * to_code, top)
    codes = torch.empty(groups.shape, dtype=torch.uint8)
    for part in _parts(groups):
        codes[:, part] = _codes(groups[:, part], to_code[part], zeros[part], top).to(torch.uint8)
    if bits == 4:
        codes = (codes[: _GROUP // 2] << 4) | codes[_GROUP // 2 :]
    return PackedTensor(codes, 1 / to_code, zeros, tuple(weights.shape))


def dequantize(bits: int, packed: PackedTensor) -> Tensor:
    codes = packed.codes
    if bits == 4:
        codes = torch.cat([codes >> 4, codes & 15])
    assert packed.zeros is not None
    return ((codes.float() - packed.zeros) * packed.scales).view(packed.shape)


def _find_zeros(groups: Tensor, to_code: Tensor, zeros: Tensor, top: int) -> Tensor:
    """Zeros [M] after the round in which the mean error of the whole matrix no longer fell."""
    rounds = torch.empty(_NUM_ROUNDS, len(zeros))
    errors = torch.zeros(_NUM_ROUNDS, dtype=torch.float64)
    for part in _parts(groups):
        zero = zeros[part]
        for index in range(_NUM_ROUNDS):
            beta = _FIRST_BETA * _KAPPA**index
            zero, error = _improve(groups[:, part], to_code[part], zero, top, beta)
            rounds[index, part] = zero
            errors[index] += error
    did_not_fall = (errors[1:] >= errors[:-1]).nonzero()
    return rounds[int(did_not_fall[0]) + 1 if len(did_not_fall) else -1]


def _improve(
    groups: Tensor, to_code: Tensor, zero: Tensor, top: int, beta: float
) -> tuple[Tensor, Tensor]:
    """The next zeros, and the sum of errors under these ones."""
    codes = _codes(groups, to_code, zero, top)
    missing = groups - (codes - zero) / to_code
    size = missing.abs()
    kept = torch.sign(missing) * (size - size.pow(_NORM - 1) / beta).relu_()
    return (codes - (groups - kept) * to_code).mean(0), size.sum(dtype=torch.float64)


def _codes(groups: Tensor, to_code: Tensor, zero: Tensor, top: int) -> Tensor:
    return (groups * to_code + zero).round_().clamp_(0, top)


def _parts(groups: Tensor) -> list[slice]:
    step = _COLUMNS * torch.get_num_threads()
    return [slice(start, start + step) for start in range(0, groups.shape[1], step)]


HQQ4 = TensorFormat("HQQ4", _GROUP, partial(quantize, 4), partial(dequantize, 4))
HQQ8 = TensorFormat("HQQ8", _GROUP, partial(quantize, 8), partial(dequantize, 8))
