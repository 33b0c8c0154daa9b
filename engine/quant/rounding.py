"""How the simple formats turn weights into codes. Follows ggml-quants.c bit for bit."""

import torch
from torch import Tensor


def inverse(scale: Tensor) -> Tensor:
    """1 / scale, and 0 for 0."""
    return torch.where(scale == 0, 0.0, 1.0 / scale)


def round_away(values: Tensor) -> Tensor:
    """To the nearest integer, and from the middle away from zero, as C's roundf has it."""
    size = values.abs()
    whole = size.floor()
    return torch.sign(values) * (whole + (2 * (size - whole)).floor())


def signed_codes(weights: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Scale [N, 1] and codes [N, W] from 0 to 2 * top - 1, where `top` stands for 0.

    The weight furthest from zero gets code 0 whichever its sign, for there is one more code below
    `top` than above.
    """
    furthest = weights.gather(1, weights.abs().argmax(1, keepdim=True))
    scale = furthest / -top
    codes = (weights * inverse(scale) + (top + 0.5)).clamp_(0, 2 * top - 1)
    return scale, codes.to(torch.uint8)


def offset_codes(weights: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scale and least weight [N, 1] and codes [N, W] from 0 to `top`."""
    least = weights.amin(1, keepdim=True)
    scale = (weights.amax(1, keepdim=True) - least) / top
    codes = ((weights - least) * inverse(scale) + 0.5).clamp_(0, top)
    return scale, least, codes.to(torch.uint8)
