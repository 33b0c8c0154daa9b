"""Attention of whole sequences on a CPU: one fused call of torch for each of them."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scale: float, window: int = 0
) -> Tensor:
    """As kernels/reference/varlen_attention.py, within float32 rounding."""
    output = torch.empty_like(query)
    bounds = starts.tolist()
    masks = _Masks(window)
    # Heads first, as the fused call wants them; views, not copies.
    queries, keys, values = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    for begin, end in itertools.pairwise(bounds):
        if begin < end:
            attended = F.scaled_dot_product_attention(
                queries[:, :, begin:end],
                keys[:, :, begin:end],
                values[:, :, begin:end],
                attn_mask=masks.of(end - begin),
                scale=scale,
                enable_gqa=True,
            )
            output[begin:end] = attended[0].transpose(0, 1)
    return output


class _Masks:
    """Who sees whom within a window, once for each length; none where the window hides nobody."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._known: dict[int, Tensor] = {}

    def of(self, length: int) -> Tensor | None:
        if not 0 < self._window < length - 1:
            return None
        if length not in self._known:
            place = torch.arange(length)
            self._known[length] = (place[:, None] - place).abs() <= self._window
        return self._known[length]
