"""Codes of a few bits in 32-bit words, as GPTQ, AWQ and compressed-tensors have them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def unpack_words(words: Tensor, bits: int, num_codes: int) -> Tensor:
    """int32 [R, W] to uint8 [R, num_codes]: a row is one run of bits, each word's lowest first.

    `bits` is 8 at most, and a row has `num_words(bits, num_codes)` words.
    """
    packed = words.contiguous().view(torch.uint8)
    if 8 % bits == 0:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
        codes = (packed.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
        return codes.flatten(1)[:, :num_codes]
    starts = torch.arange(num_codes) * bits
    packed = F.pad(packed, (0, 1)).to(torch.int32)  # the byte after the last is asked for too
    pairs = packed[:, starts // 8] | packed[:, starts // 8 + 1] << 8
    return ((pairs >> (starts % 8).to(torch.int32)) & ((1 << bits) - 1)).to(torch.uint8)


def num_words(bits: int, num_codes: int) -> int:
    """What a row of codes takes, the last word perhaps in part."""
    return -(-num_codes * bits // 32)
