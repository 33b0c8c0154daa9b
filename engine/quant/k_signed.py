"""Blocks of 256 whose groups have a scale each, in turn scaled by the block: Q3_K and Q6_K."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engine.quant.bits import round_half
from engine.quant.rounding import inverse
from engine.quant.search import add_rows, fit_scale

_GROUP = 16


class SignedBlocks(NamedTuple):
    """codes [N, 256] and scales [N, 16], both around zero, as int8; scale [N] for all of them."""

    codes: Tensor
    scales: Tensor
    scale: Tensor


def fit_signed(
    weights: Tensor, importance: Tensor, top: int, top_scale: int, steps: Sequence[float]
) -> SignedBlocks:
    """Codes from -top to top - 1 and scales from -top_scale to top_scale - 1 for [N, 256]."""
    columns = weights.view(-1, _GROUP).T.contiguous()
    matters = importance.view(-1, _GROUP).T.contiguous()
    scales = fit_scale(columns, matters, top, steps).view(len(weights), -1)
    group_matters = add_rows(matters).view_as(scales)
    scale = fit_scale(scales.T.contiguous(), group_matters.T.contiguous(), top_scale, steps)
    stored = round_half(scale).unsqueeze(-1)
    scale_codes = (scales * inverse(stored)).round_().clamp_(-top_scale, top_scale - 1)
    to_codes = inverse(scale_codes * stored)
    groups = weights.view(len(weights), -1, _GROUP)
    codes = (groups * to_codes.unsqueeze(-1)).round_().clamp_(-top, top - 1)
    return SignedBlocks(codes.flatten(1).to(torch.int8), scale_codes.to(torch.int8), scale)
