"""RMSNorm, written like the formula: the truth for kernels/rms_norm.py."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension (arXiv 1910.07467).

    x: [T, D] or [T, H, D]; weight: [D]. The result has the shape and type of `x`. The normed row
    is rounded to the weight's type before the weight scales it. So weights of the type of `x` are
    Llama's way in transformers, and float32 weights are Gemma's, which rounds the product only.
    """
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (normed.to(weight.dtype) * weight).to(x.dtype)
