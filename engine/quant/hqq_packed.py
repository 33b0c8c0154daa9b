"""HQQ tensors as the matrices that kernels multiply. Knows nothing of what is in them."""

from engine.quant.tensor_format import PackedTensor
from kernels.hqq_parts import can_hold, hqq_matrix
from kernels.packed import HQQ4, HQQ8, PackedMatrix
from kernels.packing import pack_hqq

_KINDS = {32: HQQ4, 64: HQQ8}  # by the rows of codes


def to_matrix(packed: PackedTensor) -> PackedMatrix | None:
    """What `HQQ4.quantize` or `HQQ8.quantize` made, exactly, in tiles where there are kernels.

    None for a shape that is no matrix with a multiple of 64 rows and of 32 columns.
    """
    assert packed.zeros is not None
    if len(packed.shape) != 2 or not can_hold(*packed.shape):
        return None
    kind = _KINDS[len(packed.codes)]
    return pack_hqq(hqq_matrix(kind, packed.codes, packed.scales, packed.zeros, *packed.shape))
