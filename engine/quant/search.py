"""Finds the scales under which rounding costs least. Knows neither blocks nor bytes.

Groups lie in columns, [weights of a group, N], so that every operation is one over long rows and
every sum one of rows. The method is that of llama.cpp's make_qx_quants, make_qkx3_quants and
make_qp_quants (k-quants, pull request 1684): try scales around the plain one, take for each the
codes that it gives and the least-squares scale of these codes, and keep the best of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_TINY = 1e-15  # a group below this is one of zeros


class Affine(NamedTuple):
    """What a group is: weights are about scale * code - least, both [N], neither below zero."""

    scale: Tensor
    least: Tensor


def add_rows(rows: Tensor) -> Tensor:
    """The sum [N] of rows [a power of two, N], in an order that does not depend on N.

    torch.sum's does, and then a row's codes would hang on how many rows are packed with it.
    """
    while len(rows) > 1:
        half = len(rows) // 2
        rows = rows[:half] + rows[half:]
    return rows[0]


def fit_scale(weights: Tensor, matters: Tensor, top: int, steps: Sequence[float]) -> Tensor:
    """Scales [N], of either sign, for codes from -top to top - 1.

    `steps` are by how much of a code the largest weight may miss the outermost.
    """
    furthest = weights.gather(0, weights.abs().argmax(0, keepdim=True))[0]
    is_zero = furthest.abs() < _TINY
    furthest = torch.where(is_zero, 1.0, furthest)
    matter_weights = matters * weights
    best_gain = torch.zeros_like(furthest)
    best_scale = furthest / -top
    for step in steps:
        codes = (weights * (-(top + step) / furthest)).round_().clamp_(-top, top - 1)
        along = add_rows(matter_weights * codes)
        square = add_rows(codes.square_().mul_(matters))
        scale = along / square
        gain = scale * along
        is_better = gain > best_gain  # never where square is 0: that is no number
        best_gain = torch.where(is_better, gain, best_gain)
        best_scale = torch.where(is_better, scale, best_scale)
    return torch.where(is_zero, 0.0, best_scale)


def fit_affine(weights: Tensor, matters: Tensor, top: int, steps: Sequence[float]) -> Affine:
    """Scale and least for codes from 0 to top. `steps` are as for `fit_scale`.

    Each try starts from the least of the best so far, which makes it a descent besides.
    """
    least, highest = (-weights.amin(0)).clamp_(min=0), weights.amax(0)
    is_flat = highest + least <= 0
    best = Affine(torch.where(is_flat, 0.0, (highest + least) / top), least)
    best_gain = torch.full_like(least, -torch.inf)
    matter_weights = matters * weights
    sum_matters, sum_weights = add_rows(matters), add_rows(matter_weights)
    for step in steps:
        to_code = (top + step) / (highest + best.least)
        codes = ((weights + best.least) * to_code).round_().clamp_(0, top)
        along = add_rows(matter_weights * codes)
        matter_codes = matters * codes
        first, second = add_rows(matter_codes), add_rows(matter_codes.mul_(codes))
        spread = sum_matters * second - first * first
        scale = (sum_matters * along - sum_weights * first) / spread
        least = (first * along - second * sum_weights) / spread
        scale = torch.where(least < 0, along / second, scale)  # all weights well above zero
        least = least.clamp_(min=0)
        # How much of the weights' sum of squares the codes take away.
        gain = scale * along - least * sum_weights
        is_better = (gain > best_gain) & (spread > 0) & ~is_flat
        best_gain = torch.where(is_better, gain, best_gain)
        best = Affine(
            torch.where(is_better, scale, best.scale), torch.where(is_better, least, best.least)
        )
    return best


def fit_positive(values: Tensor, matters: Tensor, top: int, steps: Sequence[float]) -> Tensor:
    """Scales [N] for values [G, N], none below zero, in codes from 0 to top."""
    largest = values.amax(0)
    is_zero = largest < _TINY
    largest = torch.where(is_zero, 1.0, largest)
    matter_values = matters * values
    best_gain = torch.full_like(largest, -torch.inf)
    best_scale = largest / top
    for step in steps:
        codes = (values * ((top + step) / largest)).round_().clamp_(max=top)
        along = add_rows(matter_values * codes)
        square = add_rows(codes.square_().mul_(matters))
        scale = along / square
        gain = scale * along
        is_better = gain > best_gain
        best_gain = torch.where(is_better, gain, best_gain)
        best_scale = torch.where(is_better, scale, best_scale)
    return torch.where(is_zero, 0.0, best_scale)
