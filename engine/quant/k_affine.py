"""Blocks of 256 whose groups have a scale and a min each, scaled in turn: Q2_K, Q4_K and Q5_K."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engine.quant.bits import round_half
from engine.quant.rounding import inverse
from engine.quant.search import add_rows, fit_affine, fit_positive

_SCALE_STEPS = tuple(step / 10 for step in range(-20, 5))


class AffineBlocks(NamedTuple):
    """codes [N, 256], scales and mins [N, G] as uint8; scale and min [N] for all of those.

    A weight is scale * scales * codes - min * mins.
    """

    codes: Tensor
    scales: Tensor
    mins: Tensor
    scale: Tensor
    min: Tensor


def fit_blocks(
    weights: Tensor, matters: Tensor, top: int, top_scale: int, group: int, steps: Sequence[float]
) -> AffineBlocks:
    """Codes from 0 to top, scales and mins from 0 to top_scale for [N, 256] in groups."""
    columns = weights.view(-1, group).T.contiguous()
    matter_columns = matters.view(-1, group).T.contiguous()
    fit = fit_affine(columns, matter_columns, top, steps)
    group_matters = add_rows(matter_columns).view(len(weights), -1)
    scales, scale = _quantised(fit.scale.view_as(group_matters), group_matters, top_scale)
    mins, min_ = _quantised(fit.least.view_as(group_matters), group_matters, top_scale)
    to_code = inverse(scales * round_half(scale).unsqueeze(-1)).unsqueeze(-1)
    least = (mins * round_half(min_).unsqueeze(-1)).unsqueeze(-1)
    groups = weights.view(len(weights), -1, group)
    codes = ((groups + least) * to_code).round_().clamp_(0, top)
    codes, scales, mins = (part.to(torch.uint8) for part in (codes.flatten(1), scales, mins))
    return AffineBlocks(codes, scales, mins, scale, min_)


def _quantised(values: Tensor, matters: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Scales or mins [N, G] as codes up to top, and their scale [N]."""
    scale = fit_positive(values.T.contiguous(), matters.T.contiguous(), top, _SCALE_STEPS)
    codes = (values * inverse(round_half(scale)).unsqueeze(-1)).round_().clamp_(max=top)
    return codes, scale
