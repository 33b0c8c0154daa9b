"""Numbers in the bytes of a block: float16 and 1, 2, 4 and 6 bits apiece. Knows no format.

Like the formats themselves, little-endian. N blocks at a time.
"""

import torch
from torch import Tensor


def half_bytes(values: Tensor) -> Tensor:
    """float32 [N] to the two bytes [N, 2] of its float16."""
    return values.to(torch.float16).view(torch.uint8).view(-1, 2)


def halves(packed: Tensor) -> Tensor:
    """Bytes [N, 2 * K] to the float16 numbers in them, as float32 [N, K]."""
    return packed.contiguous().view(torch.float16).float()


def round_half(values: Tensor) -> Tensor:
    """float32 as float16 will have it."""
    return values.to(torch.float16).float()


def split_bits(packed: Tensor, width: int) -> Tensor:
    """[..., L] bytes to [..., 8 / width, L] numbers: the lowest bits of all bytes first."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8).unsqueeze(-1)
    return (packed.unsqueeze(-2) >> shifts) & ((1 << width) - 1)


def join_bits(numbers: Tensor, width: int) -> Tensor:
    """The way back: [..., 8 / width, L] numbers below 2 ** width to [..., L] bytes."""
    numbers = numbers.to(torch.uint8)
    joined = numbers[..., 0, :].clone()
    for place in range(1, 8 // width):
        joined |= numbers[..., place, :] << (place * width)
    return joined


def split_bitset(packed: Tensor) -> Tensor:
    """[N, 4] bytes to the 32 bits [N, 32] in them, each byte's lowest first."""
    return split_bits(packed.unsqueeze(-1), 1).flatten(1)


def join_bitset(bits: Tensor) -> Tensor:
    """The way back: bits [N, 32] to bytes [N, 4]."""
    return join_bits(bits.view(len(bits), -1, 8, 1), 1).flatten(1)


def split_six_bits(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The 12 bytes [N, 12] of eight scales and eight mins, to both [N, 8], each below 64.

    Bytes 0 to 3 hold scales 0 to 3, bytes 4 to 7 mins 0 to 3; the last four hold the low halves of
    the others, whose high bits sit on top of the first eight. Source: ggml's get_scale_min_k4.
    """
    low, middle, last = packed.view(-1, 3, 4).unbind(1)
    scales = torch.cat([low & 63, (last & 15) | ((low >> 2) & 48)], dim=1)
    mins = torch.cat([middle & 63, (last >> 4) | ((middle >> 2) & 48)], dim=1)
    return scales, mins


def join_six_bits(scales: Tensor, mins: Tensor) -> Tensor:
    """The way back: uint8 scales and mins [N, 8] to bytes [N, 12]."""
    low = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    middle = mins[:, :4] | ((mins[:, 4:] >> 4) << 6)
    last = (scales[:, 4:] & 15) | ((mins[:, 4:] & 15) << 4)
    return torch.cat([low, middle, last], dim=1)
