"""Chosen parts of rows of uniforms on a CPU: in C++ where there is a library, else in numpy."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.cpu.native.bindings import loaded_library

Words = NDArray[np.uint64]  # 32-bit words, with room for a product

_PIECE = 8192  # quads whose state a core's second cache holds
_WORD, _BITS = np.uint64(0xFFFFFFFF), np.uint64(32)
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
_ROUNDS = 10


def uniform_quads(
    seeds: Tensor, choices: Tensor, positions: Tensor, rows: Tensor, quads: Tensor
) -> Tensor:
    """As kernels/reference/uniform_quads.py, bit for bit."""
    library = loaded_library()
    if library is not None:
        return library.uniform_quads((seeds, choices, positions), rows, quads)
    return _in_numpy(seeds, choices, positions, rows, quads)


def _in_numpy(
    seeds: Tensor, choices: Tensor, positions: Tensor, rows: Tensor, quads: Tensor
) -> Tensor:
    """The same in pieces that fit a core's cache."""
    seed, choice, position = (x.numpy().view(np.uint64) for x in (seeds, choices, positions))
    keys = np.stack((seed & _WORD, seed >> _BITS))  # [2, S]
    choice, position = choice & _WORD, position & _WORD
    output = np.empty((len(quads), 4), np.float32)
    for start in range(0, len(quads), _PIECE):
        piece = slice(start, start + _PIECE)
        row, quad = rows.numpy()[piece], quads.numpy()[piece].view(np.uint64)
        even = np.stack((quad, choice[row]))  # words 0 and 2 of the counter
        odd = np.stack((position[row], np.zeros_like(quad)))  # words 1 and 3
        _rounds(even, odd, keys[:, row])
        for lane, words in enumerate((even[0], odd[0], even[1], odd[1])):
            output[piece, lane] = words >> np.uint64(9)
    return torch.from_numpy(output).add_(0.5).mul_(2.0**-23)


def _rounds(even: Words, odd: Words, keys: Words) -> None:
    """Ten rounds of Philox4x32, in place: words 0 and 2, 1 and 3, and keys, all [2, n]."""
    products = np.empty_like(even)
    crossed = products[::-1]  # what comes of word 2 goes to 0 and 1, and the other way round
    for _ in range(_ROUNDS):
        np.multiply(even, _MULTIPLIERS, out=products)
        np.right_shift(crossed, _BITS, out=even)
        even ^= odd
        even ^= keys
        np.bitwise_and(crossed, _WORD, out=odd)
        keys += _WEYL
        keys &= _WORD
