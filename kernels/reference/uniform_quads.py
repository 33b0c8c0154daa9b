"""Chosen parts of the rows of reference/philox.py: the truth for kernels/uniform_quads.py."""

import torch
from torch import Tensor

from kernels.reference.philox import WORD, centred, philox4x32


def uniform_quads(
    seeds: Tensor, choices: Tensor, positions: Tensor, rows: Tensor, quads: Tensor
) -> Tensor:
    """The elements `4 * quads[n]` to `4 * quads[n] + 3` of row `rows[n]` of `uniform`.

    seeds, choices, positions: [S] int64; rows, quads: [N] int64. Returns [N, 4] float32, the same
    bits as `uniform(seeds, choices, positions, num)[rows[n], 4 * quads[n] : 4 * quads[n] + 4]`:
    four are what one block of Philox gives.
    """
    seed = seeds[rows]
    counter = (quads, positions[rows] & WORD, choices[rows] & WORD, torch.zeros_like(quads))
    return centred(torch.stack(philox4x32(counter, (seed & WORD, (seed >> 32) & WORD)), dim=-1))
