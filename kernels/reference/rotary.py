"""Rotary position embedding in half-split (NeoX) order: the truth for kernels/rotary.py."""

import torch
from torch import Tensor


def rotary(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate dimension pairs `(i, i + R/2)` of each head by the token's angle (arXiv 2104.09864).

    query: [T, Hq, D]; key: [T, Hkv, D]; cos, sin: [T, R/2], the angles of each row's position.
    Dimensions from R on pass through. float32 inside, rounded once; returns new tensors.
    """
    return _rotate(query, cos, sin), _rotate(key, cos, sin)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    cos, sin = cos.float()[:, None], sin.float()[:, None]  # [T, 1, R/2]
    first, second, rest = x.float().split([half, half, x.shape[-1] - 2 * half], dim=-1)
    turned = (first * cos - second * sin, second * cos + first * sin, rest)
    return torch.cat(turned, dim=-1).to(x.dtype)
