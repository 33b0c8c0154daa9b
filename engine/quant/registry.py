"""Formats by name, and which one to take for a matrix that the one asked for does not suit.

The names, the fallbacks and the step up are those of mistral.rs' in-situ quantisation.
"""

from collections.abc import Sequence
from math import prod

from engine.quant.fp8 import FP8
from engine.quant.hqq import HQQ4, HQQ8
from engine.quant.mxfp4 import MXFP4
from engine.quant.names import isq_name
from engine.quant.q2_k import Q2_K
from engine.quant.q3_k import Q3_K
from engine.quant.q4_0 import Q4_0
from engine.quant.q4_1 import Q4_1
from engine.quant.q4_k import Q4_K
from engine.quant.q5_0 import Q5_0
from engine.quant.q5_1 import Q5_1
from engine.quant.q5_k import Q5_K
from engine.quant.q6_k import Q6_K
from engine.quant.q8_0 import Q8_0
from engine.quant.q8_1 import Q8_1
from engine.quant.q8_k import Q8_K
from engine.quant.row_format import RowFormat
from engine.quant.tensor_format import TensorFormat

Format = RowFormat | TensorFormat

ROW_FORMATS = (
    *(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1),
    *(Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K, MXFP4),
)
LEVELS: dict[str, Format] = {"2": Q2_K, "3": Q3_K, "4": Q4_K, "5": Q5_K, "6": Q6_K, "8": Q8_0}
NAMES: dict[str, Format] = {
    **LEVELS,
    **{kind.name.replace("_K", "K"): kind for kind in ROW_FORMATS[:-1]},
    **{"HQQ8": HQQ8, "HQQ4": HQQ4, "FP8": FP8, "MXFP4": MXFP4},
}

_FALLBACKS: dict[str, Format] = {
    "Q2_K": Q4_0,
    "Q3_K": Q4_0,
    "Q4_K": Q4_1,
    "Q5_K": Q5_0,
    "Q6_K": Q5_1,
    "Q8_K": Q8_1,
}
_STEP_UP: dict[str, Format] = {
    **dict.fromkeys(("Q2_K", "Q3_K", "Q4_K", "Q4_0", "Q4_1"), Q6_K),
    **dict.fromkeys(("Q5_K", "Q6_K", "Q8_K", "Q5_0", "Q5_1", "Q8_0", "Q8_1"), Q8_0),
}


def find_format(name: str) -> Format:
    """The format called `name`: a level of bits (`4`), `Q4K` or `Q4_K`, in any case.

    Raises InvalidInput, which lists the names.
    """
    return NAMES[isq_name(name)]


def fitting_format(kind: Format, shape: Sequence[int]) -> Format | None:
    """`kind` if it suits a matrix [out, in], or else the one to take in its place.

    None if there is none: the matrix stays as it is. A caller who gets another one says so.
    """
    for candidate in (kind, _FALLBACKS.get(kind.name)):
        if candidate is not None and _fits(candidate, shape):
            return candidate
    return None


def step_up(kind: Format) -> Format:
    """The format for token embeddings and the output matrix of a model that is packed in `kind`."""
    return _STEP_UP.get(kind.name, kind)


def _fits(kind: Format, shape: Sequence[int]) -> bool:
    length = shape[-1] if isinstance(kind, RowFormat) else prod(shape)
    return length > 0 and length % kind.num_weights == 0
