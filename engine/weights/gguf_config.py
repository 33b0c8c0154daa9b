"""A model's configuration from GGUF metadata. Torch-free; knows no other format.

Keys: ggml's docs/gguf.md and llama.cpp's conversion scripts.
"""

from collections import Counter
from math import log, prod
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from gguf.constants import GGMLQuantizationType

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.weights.gguf_metadata import GgufHeader, GgufTensor
from engine.weights.rope_scaling import Factors, dump_rope_scaling, parse_rope_scaling

T = TypeVar("T")
Count = Annotated[int, msgspec.Meta(gt=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_DTYPES = {GGMLQuantizationType.F32: "float32", GGMLQuantizationType.F16: "float16"}
_DEFAULT_DTYPE = "bfloat16"  # of packed weights: float16 overflows in Qwen2's activations


def read_gguf_config(header: GgufHeader, path: Path) -> ModelConfig:
    """Read the configuration from a GGUF file's header; `path` names the file in errors.

    Raises LoadError naming the key that is missing, nonsensical or asks for what is not supported.
    """
    keys = _Keys(header, path)
    head_dim = _head_dim(keys)
    window = keys.optional("attention.sliding_window", int, 0)
    return ModelConfig(
        architecture=_architecture(keys, has_window=window > 0),
        vocab_size=keys.tensor("token_embd.weight").shape[0],
        hidden_size=keys.required("embedding_length", Count),
        intermediate_size=keys.required("feed_forward_length", Count),
        num_layers=keys.required("block_count", Count),
        num_heads=keys.required("attention.head_count", Count),
        num_kv_heads=_num_kv_heads(keys),
        head_dim=head_dim,
        context_length=keys.required("context_length", Count),
        rms_norm_eps=keys.required("attention.layer_norm_rms_epsilon", Positive),
        rope_theta=keys.optional("rope.freq_base", Positive, 10000.0),
        rope_scaling=_rope_scaling(keys, head_dim),
        sliding_window=window or None,
        tie_word_embeddings="output.weight" not in header.tensors,
        attention_bias="blk.0.attn_q.bias" in header.tensors,
        attention_output_bias="blk.0.attn_output.bias" in header.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in header.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in header.tensors,
        eos_token_ids=_eos_token_ids(keys),
        bos_token_id=keys.global_("tokenizer.ggml.bos_token_id", int | None),
        dtype=_dtype(header),
    )


class _Keys:
    """Typed access to metadata, below the prefix of the file's architecture."""

    def __init__(self, header: GgufHeader, path: Path) -> None:
        self.header = header
        self.path = path
        self.prefix = self.global_("general.architecture", str)

    def global_(self, key: str, kind: Any) -> Any:
        return self._convert(key, self.header.metadata.get(key), kind)

    def required(self, key: str, kind: Any) -> Any:
        return self.global_(f"{self.prefix}.{key}", kind)

    def optional(self, key: str, kind: Any, default: Any) -> Any:
        value = self.header.metadata.get(f"{self.prefix}.{key}")
        return default if value is None else self._convert(f"{self.prefix}.{key}", value, kind)

    def tensor(self, name: str) -> GgufTensor:
        if name not in self.header.tensors:
            raise LoadError(f"{self.path} has no tensor {name}.")
        return self.header.tensors[name]

    def _convert(self, key: str, value: Any, kind: Any) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            problem = "is missing" if value is None else f"cannot be used: {error}"
            raise LoadError(f"{self.path}: the metadata key {key} {problem}.") from error


def _architecture(keys: _Keys, *, has_window: bool) -> str:
    if keys.prefix not in _ARCHITECTURES:
        raise LoadError(
            f"{keys.path}: the GGUF architecture {keys.prefix} is not supported; supported are "
            f"{', '.join(_ARCHITECTURES)}."
        )
    if keys.optional("expert_count", int, 0):
        raise LoadError(f"{keys.path}: models with experts (Mixtral) are not supported.")
    # Mistral's files say llama; what sets Mistral apart is its window.
    is_mistral = keys.prefix == "llama" and has_window
    return "MistralForCausalLM" if is_mistral else _ARCHITECTURES[keys.prefix]


def _num_kv_heads(keys: _Keys) -> int:
    num_kv_heads: int = keys.optional(
        "attention.head_count_kv", Count, keys.required("attention.head_count", Count)
    )
    return num_kv_heads


def _head_dim(keys: _Keys) -> int:
    default = keys.required("embedding_length", Count) // keys.required(
        "attention.head_count", Count
    )
    head_dim: int = keys.optional("attention.key_length", Count, default)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (value := keys.optional(key, Count, head_dim)) != head_dim:
            raise LoadError(
                f"{keys.path}: {keys.prefix}.{key} is {value} and the heads have {head_dim}; other "
                "sizes are not supported."
            )
    return head_dim


def _rope_scaling(keys: _Keys, head_dim: int) -> dict[str, Any] | None:
    factor = keys.optional("rope.scaling.factor", float, 0.0)
    factor = factor or keys.optional("rope.scale_linear", float, 0.0)
    # Without a type a factor is linear, as llama.cpp has it.
    kind = keys.optional("rope.scaling.type", str, "linear" if factor else "none")
    factor = factor or 1.0
    if "rope_freqs.weight" in keys.header.tensors:
        if kind not in ("none", "linear"):
            raise LoadError(
                f"{keys.path}: rope_freqs.weight beside rope scaling {kind!r} is not supported."
            )
        return _rope_factors(keys, head_dim, factor if kind == "linear" else 1.0)
    values: dict[str, Any] = {
        "rope_type": "default" if kind == "none" else kind,
        "factor": factor,
        "original_max_position_embeddings": keys.optional(
            "rope.scaling.original_context_length", int, keys.required("context_length", int)
        ),
        "beta_fast": keys.optional("rope.scaling.yarn_beta_fast", float, None),
        "beta_slow": keys.optional("rope.scaling.yarn_beta_slow", float, None),
    }
    if kind == "yarn":
        extra = keys.optional("rope.scaling.attn_factor", float, 1.0)
        values["attention_factor"] = extra * (0.1 * log(max(factor, 1.0)) + 1.0)
    return parse_rope_scaling(values, str(keys.path))


def _rope_factors(keys: _Keys, head_dim: int, factor: float) -> dict[str, Any]:
    tensor = keys.tensor("rope_freqs.weight")
    if tensor.shape != (head_dim // 2,) or tensor.type is not GGMLQuantizationType.F32:
        raise LoadError(f"{keys.path}: rope_freqs.weight is not a float32 row of {head_dim // 2}.")
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset)
        factors = np.frombuffer(file.read(tensor.num_bytes), "<f4")
    return dump_rope_scaling(Factors(tuple((factors * factor).tolist())))


def _eos_token_ids(keys: _Keys) -> tuple[int, ...]:
    ids = {keys.global_(f"tokenizer.ggml.{key}", int | None) for key in _EOS_KEYS}
    return tuple(sorted(ids - {None}))


def _dtype(header: GgufHeader) -> str:
    """The dtype that most of the weights have or, if they are packed, should be unpacked to."""
    sizes: Counter[GGMLQuantizationType] = Counter()
    for tensor in header.tensors.values():
        sizes[tensor.type] += prod(tensor.shape)
    return _DTYPES.get(sizes.most_common(1)[0][0], _DEFAULT_DTYPE)
