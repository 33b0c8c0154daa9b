"""Attention of whole sequences on a CPU: one fused call of torch for each of them."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    scale: float,
    window: int = 0,
    biases: Tensor | None = None,
) -> Tensor:
    """As kernels/reference/varlen_attention.py, within float32 rounding."""
    output = torch.empty_like(query)
    bounds = starts.tolist()
    masks = _Masks(window, biases)
    # Heads first, as the fused call wants them; views, not copies.
    queries, keys, values = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    for begin, end in itertools.pairwise(bounds):
        if begin < end:
            attended = F.scaled_dot_product_attention(
                queries[:, :, begin:end],
                keys[:, :, begin:end],
                values[:, :, begin:end],
                attn_mask=_typed(masks.of(end - begin), query.dtype),
                scale=scale,
                enable_gqa=True,
            )
            output[begin:end] = attended[0].transpose(0, 1)
    return output


class _Masks:
    """What is added to the scores of a text, once for each length; None where that is nothing."""

    def __init__(self, window: int, biases: Tensor | None) -> None:
        self._window = window
        self._biases = biases
        self._known: dict[int, Tensor] = {}

    def of(self, length: int) -> Tensor | None:
        """[L, L], or [Hq, L, L] with biases."""
        hides = 0 < self._window < length - 1
        if self._biases is None and not hides:
            return None
        if length not in self._known:
            self._known[length] = self._make(length, hides)
        return self._known[length]

    def _make(self, length: int, hides: bool) -> Tensor:
        place = torch.arange(length)
        distance = place - place[:, None]
        is_near = distance.abs() <= self._window
        if self._biases is None:
            return is_near
        reach = self._biases.shape[1] // 2
        mask = self._biases[:, distance.clamp(-reach, reach) + reach]
        return mask.masked_fill(~is_near, -torch.inf) if hides else mask


def _typed(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The fused call wants a mask of its own type, or of truth values."""
    return mask if mask is None or mask.dtype == torch.bool else mask.to(dtype)
