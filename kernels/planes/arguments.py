"""What every kernel for packed weights takes of a matrix: its planes, and its format's constants."""

import torch
from torch import Tensor

from kernels.check import expect
from kernels.interpreter import is_interpreting
from kernels.packed import PackedMatrix
from kernels.planes.fields import MAGIC_BIAS
from kernels.planes.format import BLOCK, FORMATS, LOW_BITS


def planes_of(matrix: PackedMatrix, x: Tensor) -> tuple[tuple[Tensor, ...], dict[str, object]]:
    """The kernels' arguments for a matrix: its planes, and the constants of its format."""
    assert matrix.planes is not None, "a matrix on a GPU is in planes"
    expect("device of x", x.device, matrix.planes.low.device)
    format = FORMATS[matrix.kind]
    has_magic = format.codes in LOW_BITS and format.codes != "table"
    is_fast = has_magic or format.codes in ("int8", "e4m3")
    is_fast = is_fast and x.dtype == torch.bfloat16 and not is_interpreting()
    constants: dict[str, object] = {
        "CODES": format.codes,
        "SCALES": format.scales,
        "GROUP": format.group,
        "BIAS": format.bias + (MAGIC_BIAS if has_magic and is_fast else 0),
        "HAS_SHIFT": format.has_shift,
        "IS_FAST": is_fast,
        "IS_WHOLE": matrix.num_columns % BLOCK == 0,
    }
    return tuple(matrix.planes), constants
