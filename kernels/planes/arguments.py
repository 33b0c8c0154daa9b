"""What kernels for packed weights take of a matrix: its planes and its format's constants."""

import torch
from torch import Tensor

from kernels.check import expect
from kernels.interpreter import is_interpreting
from kernels.packed import PackedMatrix
from kernels.planes.fields import MAGIC_BIAS
from kernels.planes.format import BLOCK, FORMATS, LOW_BITS, Format


def planes_of(matrix: PackedMatrix, x: Tensor) -> tuple[tuple[Tensor, ...], dict[str, object]]:
    """The kernels' arguments for a matrix: its planes, and the constants of its format."""
    assert matrix.planes is not None, "a matrix on a GPU is in planes"
    expect("device of x", x.device, matrix.planes.low.device)
    format = FORMATS[matrix.kind]
    is_fast = x.dtype == torch.bfloat16 and not is_interpreting()
    has_magic = is_fast and format.codes in LOW_BITS and format.codes != "table"
    constants = format_constants(format)
    constants["BIAS"] = format.bias + (MAGIC_BIAS if has_magic else 0)
    constants["IS_FAST"] = is_fast
    constants["IS_WHOLE"] = matrix.num_columns % BLOCK == 0
    return tuple(matrix.planes), constants


def format_constants(format: Format) -> dict[str, object]:
    """Those that depend on nothing else."""
    return {
        "CODES": format.codes,
        "SCALES": format.scales,
        "GROUP": format.group,
        "HAS_SHIFT": format.has_shift,
    }
