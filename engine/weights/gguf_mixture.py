"""Which type each tensor of a GGUF file gets. Knows names and shapes, no weights.

llama.cpp's names (Q4_K_M) give llama.cpp's choice: more bits for the tensors that need them, as in
llama_tensor_get_type_impl of llama-quant.cpp. The guide's names without an underscore (Q4K) and its
levels (4) give every matrix one format, token embeddings and output one step more.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type, LlamaFileType

from engine.errors import InvalidInput
from engine.quant.registry import NAMES, fitting_format, step_up
from engine.quant.row_format import RowFormat


class ModelFacts(NamedTuple):
    """What the choice depends on. `group` is query heads per key-value head."""

    architecture: str
    num_layers: int
    group: int
    num_experts: int
    is_tied: bool


Choose = Callable[[str, Sequence[int], ModelFacts], Type]


class Scheme(NamedTuple):
    """`choose(name, shape, facts)` is the type of a tensor that `is_packed` says is packed."""

    file_type: LlamaFileType
    choose: Choose


_MIXTURES = {
    "F32": (LlamaFileType.ALL_F32, Type.F32),
    "F16": (LlamaFileType.MOSTLY_F16, Type.F16),
    "BF16": (LlamaFileType.MOSTLY_BF16, Type.BF16),
    "Q4_0": (LlamaFileType.MOSTLY_Q4_0, Type.Q4_0),
    "Q4_1": (LlamaFileType.MOSTLY_Q4_1, Type.Q4_1),
    "Q5_0": (LlamaFileType.MOSTLY_Q5_0, Type.Q5_0),
    "Q5_1": (LlamaFileType.MOSTLY_Q5_1, Type.Q5_1),
    "Q8_0": (LlamaFileType.MOSTLY_Q8_0, Type.Q8_0),
    "Q2_K": (LlamaFileType.MOSTLY_Q2_K, Type.Q2_K),
    "Q2_K_S": (LlamaFileType.MOSTLY_Q2_K_S, Type.Q2_K),
    "Q3_K_S": (LlamaFileType.MOSTLY_Q3_K_S, Type.Q3_K),
    "Q3_K_M": (LlamaFileType.MOSTLY_Q3_K_M, Type.Q3_K),
    "Q3_K_L": (LlamaFileType.MOSTLY_Q3_K_L, Type.Q3_K),
    "Q4_K_S": (LlamaFileType.MOSTLY_Q4_K_S, Type.Q4_K),
    "Q4_K_M": (LlamaFileType.MOSTLY_Q4_K_M, Type.Q4_K),
    "Q5_K_S": (LlamaFileType.MOSTLY_Q5_K_S, Type.Q5_K),
    "Q5_K_M": (LlamaFileType.MOSTLY_Q5_K_M, Type.Q5_K),
    "Q6_K": (LlamaFileType.MOSTLY_Q6_K, Type.Q6_K),
}
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
_ONE_FORMAT = {
    "Q2_K": LlamaFileType.MOSTLY_Q2_K_S,
    "Q3_K": LlamaFileType.MOSTLY_Q3_K_S,
    "Q4_K": LlamaFileType.MOSTLY_Q4_K_S,
    "Q5_K": LlamaFileType.MOSTLY_Q5_K_S,
    "Q6_K": LlamaFileType.MOSTLY_Q6_K,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}
_ONE_FORMAT_NAMES = ("2", "3", "4", "5", "6", "8", "Q2K", "Q3K", "Q4K", "Q5K", "Q6K")
FILE_TYPES = (*_MIXTURES, *_ALIASES, *_ONE_FORMAT_NAMES)

# Where a row is no whole number of blocks of 256.
_FALLBACKS = {
    Type.Q2_K: Type.Q4_0,
    Type.Q3_K: Type.Q4_0,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
}
_LAYER = re.compile(r"blk\.(\d+)\.")
_NEVER_PACKED = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ssm_conv1d|shortconv\.conv|altup|laurel|per_layer_model"
)


def find_scheme(name: str) -> Scheme:
    """The scheme called `name`, in any case. Raises InvalidInput, which lists the names."""
    upper = name.upper()
    if upper in _ONE_FORMAT_NAMES:
        kind = NAMES[upper]
        assert isinstance(kind, RowFormat)
        return Scheme(_ONE_FORMAT[kind.name], _one_format(kind))
    upper = _ALIASES.get(upper, upper)
    if upper not in _MIXTURES:
        raise InvalidInput(
            f"a GGUF file of type {name} cannot be written; choose one of {', '.join(FILE_TYPES)}.",
            "type",
        )
    file_type, base = _MIXTURES[upper]
    return Scheme(file_type, _mixture(file_type, base))


def is_packed(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor is one that a scheme packs: a matrix, and neither a norm nor a router."""
    return len(shape) > 1 and name.endswith(".weight") and not _NEVER_PACKED.search(name)


def _one_format(kind: RowFormat) -> Choose:
    def choose(name: str, shape: Sequence[int], facts: ModelFacts) -> Type:
        is_end = name in ("output.weight", "token_embd.weight")
        chosen = fitting_format(step_up(kind) if is_end else kind, shape)
        return Type.F16 if chosen is None else Type[chosen.name]

    return choose


def _mixture(file_type: LlamaFileType, base: Type) -> Choose:
    def choose(name: str, shape: Sequence[int], facts: ModelFacts) -> Type:
        if GGML_QUANT_SIZES[base][0] == 1:
            return base
        is_output = name == "output.weight" or (facts.is_tied and name == "token_embd.weight")
        chosen = _output(base, shape) if is_output else _inner(file_type, base, name, facts)
        return _fitted(chosen, shape)

    return choose


def _output(base: Type, shape: Sequence[int]) -> Type:
    if base is Type.Q8_0 or shape[-1] % GGML_QUANT_SIZES[base][0]:
        return Type.Q8_0
    return Type.Q6_K


def _fitted(kind: Type, shape: Sequence[int]) -> Type:
    for candidate in (kind, _FALLBACKS.get(kind, kind)):
        if shape[-1] % GGML_QUANT_SIZES[candidate][0] == 0:
            return candidate
    return Type.F16


def _inner(file_type: LlamaFileType, base: Type, name: str, facts: ModelFacts) -> Type:
    match = _LAYER.match(name)
    if match is None:
        return base
    layer, part = int(match[1]), name[match.end() :]
    if part == "attn_v.weight":
        return _attn_v(file_type, base, layer, facts)
    if part == "attn_k.weight" and facts.num_experts == 8:
        return Type.Q8_0
    if part.startswith("ffn_down"):
        return _ffn_down(file_type, base, layer, facts.num_layers)
    if part == "attn_output.weight":
        return _attn_output(file_type, base, facts)
    if part == "attn_qkv.weight":
        return _ATTN_QKV.get(file_type, base)
    return base


def _attn_v(file_type: LlamaFileType, base: Type, layer: int, facts: ModelFacts) -> Type:
    if facts.num_experts == 8:
        return Type.Q8_0
    kind = base
    match file_type:
        case LlamaFileType.MOSTLY_Q2_K:
            kind = Type.Q4_K if facts.group >= 4 else Type.Q3_K
        case LlamaFileType.MOSTLY_Q2_K_S if facts.group >= 4:
            kind = Type.Q4_K
        case LlamaFileType.MOSTLY_Q3_K_M:
            kind = Type.Q5_K if layer < 2 else Type.Q4_K
        case LlamaFileType.MOSTLY_Q3_K_L:
            kind = Type.Q5_K
        case LlamaFileType.MOSTLY_Q4_K_S if layer < 4:
            kind = Type.Q5_K
        case LlamaFileType.MOSTLY_Q4_K_M | LlamaFileType.MOSTLY_Q5_K_M:
            kind = Type.Q6_K if _use_more_bits(layer, facts.num_layers) else base
    is_70b = facts.architecture in ("llama", "qwen2") and facts.num_layers == 80
    return Type.Q5_K if is_70b and kind in (Type.Q3_K, Type.Q4_K) else kind


def _use_more_bits(layer: int, num_layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def _ffn_down(file_type: LlamaFileType, base: Type, layer: int, num_layers: int) -> Type:
    match file_type:
        case LlamaFileType.MOSTLY_Q2_K:
            return Type.Q3_K
        case LlamaFileType.MOSTLY_Q2_K_S if layer < num_layers // 8:
            return Type.Q4_K
        case LlamaFileType.MOSTLY_Q3_K_M:
            return Type.Q5_K if layer < num_layers // 16 else Type.Q4_K
        case LlamaFileType.MOSTLY_Q3_K_L:
            return Type.Q5_K
        case LlamaFileType.MOSTLY_Q4_K_S if layer < num_layers // 8:
            return Type.Q5_K
        case LlamaFileType.MOSTLY_Q4_K_M | LlamaFileType.MOSTLY_Q5_K_M:
            return Type.Q6_K if _use_more_bits(layer, num_layers) else base
    return base


_EIGHT_EXPERTS_Q5 = (
    *(LlamaFileType.MOSTLY_Q2_K, LlamaFileType.MOSTLY_Q3_K_S, LlamaFileType.MOSTLY_Q3_K_M),
    *(LlamaFileType.MOSTLY_Q4_K_S, LlamaFileType.MOSTLY_Q4_K_M),
)
_ATTN_OUTPUT = {
    LlamaFileType.MOSTLY_Q2_K: Type.Q3_K,
    LlamaFileType.MOSTLY_Q3_K_M: Type.Q4_K,
    LlamaFileType.MOSTLY_Q3_K_L: Type.Q5_K,
}
_ATTN_QKV = {
    LlamaFileType.MOSTLY_Q3_K_M: Type.Q4_K,
    LlamaFileType.MOSTLY_Q3_K_L: Type.Q4_K,
    LlamaFileType.MOSTLY_Q4_K_M: Type.Q5_K,
    LlamaFileType.MOSTLY_Q5_K_M: Type.Q6_K,
}


def _attn_output(file_type: LlamaFileType, base: Type, facts: ModelFacts) -> Type:
    if facts.num_experts == 8:
        return Type.Q5_K if file_type in _EIGHT_EXPERTS_Q5 else base
    return _ATTN_OUTPUT.get(file_type, base)
