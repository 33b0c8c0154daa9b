"""Philox4x32-10 uniforms as a pure function of seed, choice and position; the truth for philox.py.

A counter-based generator has no state to lose: a restarted job draws what it would have drawn.
"""

import torch
from torch import Tensor

WORD = 0xFFFFFFFF  # the bits of one
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def uniform(seeds: Tensor, choices: Tensor, positions: Tensor, num: int) -> Tensor:
    """Uniforms in (0, 1): row s depends on nothing but `(seeds[s], choices[s], positions[s])`.

    seeds, choices, positions: [S] int64. Returns [S, num] float32, bit for bit the same on every
    device, and a shorter row is the beginning of a longer one. Element i is word i % 4 of block
    `(i // 4, position, choice, 0)` under the 64-bit key `seed`; choices and positions count
    modulo 2^32. The 23 high bits are centred in their interval, so neither 0 nor 1 occurs.
    """
    block = torch.arange(-(-num // 4), device=seeds.device)[None]  # [1, ceil(num / 4)]
    position, choice, seed = positions[:, None], choices[:, None], seeds[:, None]
    counter = (block, position & WORD, choice & WORD, torch.zeros_like(seed))
    words = torch.stack(philox4x32(counter, (seed & WORD, (seed >> 32) & WORD)), dim=-1)
    return centred(words.flatten(1)[:, :num])


def centred(words: Tensor) -> Tensor:
    """The uniform of each 32-bit word, float32: the middle of the interval of its 23 high bits."""
    return ((words >> 9).float() + 0.5) * 2.0**-23


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32 (Salmon et al., SC11) on 32-bit words held in int64 tensors.

    The tensors broadcast against each other: words that a row shares are computed once a row.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The product's upper half may set the sign of int64; masking after the shift drops it.
        even, odd = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = ((odd >> 32) & WORD) ^ c1 ^ k0, ((even >> 32) & WORD) ^ c3 ^ k1
        c1, c3 = odd & WORD, even & WORD
        k0, k1 = (k0 + _WEYL[0]) & WORD, (k1 + _WEYL[1]) & WORD
    return c0, c1, c2, c3
