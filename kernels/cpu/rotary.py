"""Rotary position embedding on a CPU: all heads at once, with half the operations."""

import torch
from torch import Tensor


def rotary(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """As kernels/reference/rotary.py; the two results are views of one new tensor."""
    heads = torch.cat((query, key), dim=1).float()  # a copy: it may be turned in place
    half = cos.shape[-1]
    cos, sin = cos.float()[:, None], sin.float()[:, None]
    first, second = heads[..., :half], heads[..., half : 2 * half]
    turned = (first * cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).addcmul_(first, sin)
    first.copy_(turned)
    turned_query, turned_key = heads.to(query.dtype).split((query.shape[1], key.shape[1]), dim=1)
    return turned_query, turned_key
