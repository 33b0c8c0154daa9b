"""A model's configuration from GGUF metadata. Torch-free; knows no other format.

Keys: ggml's docs/gguf.md and llama.cpp's conversion scripts.
"""

from collections import Counter
from math import log, prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.weights.bounds import LayerCount
from engine.weights.family import gguf_family
from engine.weights.gguf_keys import Count, GgufFamily, GgufKeys, Positive
from engine.weights.gguf_metadata import GgufHeader
from engine.weights.rope_scaling import Factors, LongRope, dump_rope_scaling, parse_rope_scaling

_EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_DTYPES = {GGMLQuantizationType.F32: "float32", GGMLQuantizationType.F16: "float16"}
_DEFAULT_DTYPE = "bfloat16"  # of packed weights: float16 overflows in Qwen2's activations


def read_gguf_config(header: GgufHeader, path: Path) -> ModelConfig:
    """Read the configuration from a GGUF file's header; `path` names the file in errors.

    Raises LoadError naming the key that is missing, nonsensical or asks for what is not supported.
    """
    keys = GgufKeys(header, path)
    family = read_gguf_family(header, path)
    head_dim = _head_dim(keys)
    common = {
        "architecture": family.architecture,
        "vocab_size": keys.tensor("token_embd.weight").shape[0],
        "hidden_size": keys.required("embedding_length", Count),
        "intermediate_size": keys.required("feed_forward_length", Count),
        "num_layers": keys.required("block_count", LayerCount),
        "num_heads": keys.required("attention.head_count", Count),
        "num_kv_heads": _num_kv_heads(keys),
        "head_dim": head_dim,
        "context_length": keys.required("context_length", Count),
        "norm_eps": _norm_eps(keys),
        "rotary_dim": keys.optional("rope.dimension_count", Count, head_dim),
        "rope_theta": keys.optional("rope.freq_base", Positive, 10000.0),
        "rope_scaling": _rope_scaling(keys),
        "windows": _windows(keys),
        "tie_word_embeddings": not keys.has("output.weight"),
        "attention_bias": keys.has("blk.0.attn_q.bias") or keys.has("blk.0.attn_qkv.bias"),
        "attention_output_bias": keys.has("blk.0.attn_output.bias"),
        "mlp_bias": keys.has("blk.0.ffn_up.bias"),
        "qk_norm": "head" if keys.has("blk.0.attn_q_norm.weight") else "",
        "eos_token_ids": _eos_token_ids(keys),
        "bos_token_id": keys.anywhere("tokenizer.ggml.bos_token_id", int | None),
        "dtype": _dtype(header),
    }
    return ModelConfig(**{**common, **family.fields(keys)})


def read_gguf_family(header: GgufHeader, path: Path) -> GgufFamily:
    """How to read this file. Raises LoadError for an architecture that is not supported."""
    name = GgufKeys(header, path).prefix
    try:
        return gguf_family(name)
    except LoadError as error:
        raise LoadError(f"{path}: {error}.") from error


def _norm_eps(keys: GgufKeys) -> float:
    key = "attention.layer_norm_epsilon"
    eps: float | None = keys.optional(key, Positive, None)
    return eps or float(keys.required("attention.layer_norm_rms_epsilon", Positive))


def _windows(keys: GgufKeys) -> tuple[int, ...]:
    """Every layer has the window, unless the family knows better."""
    window = keys.optional("attention.sliding_window", int, 0)
    num_layers: int = keys.required("block_count", Count)
    return (window,) * num_layers if window > 0 else ()


def _num_kv_heads(keys: GgufKeys) -> int:
    num_kv_heads: int = keys.optional(
        "attention.head_count_kv", Count, keys.required("attention.head_count", Count)
    )
    return num_kv_heads


def _head_dim(keys: GgufKeys) -> int:
    default = keys.required("embedding_length", Count) // keys.required(
        "attention.head_count", Count
    )
    head_dim: int = keys.optional("attention.key_length", Count, default)
    key = "attention.value_length"
    if (value := keys.optional(key, Count, head_dim)) != head_dim:
        raise LoadError(
            f"{keys.path}: {keys.prefix}.{key} is {value} and the heads have {head_dim}; other "
            "sizes are not supported."
        )
    return head_dim


def _rope_scaling(keys: GgufKeys) -> dict[str, Any] | None:
    if keys.has("rope_factors_long.weight"):  # some files name no type of scaling beside them
        return _long_rope(keys)
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
        return _rope_factors(keys, factor if kind == "linear" else 1.0)
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


def _long_rope(keys: GgufKeys) -> dict[str, Any]:
    scaling = LongRope(
        short_factor=tuple(read_row(keys, "rope_factors_short.weight").tolist()),
        long_factor=tuple(read_row(keys, "rope_factors_long.weight").tolist()),
        original_max_position_embeddings=keys.required(
            "rope.scaling.original_context_length", Count
        ),
        attention_factor=keys.optional("rope.scaling.attn_factor", Positive, None),
    )
    return dump_rope_scaling(scaling)


def _rope_factors(keys: GgufKeys, factor: float) -> dict[str, Any]:
    factors = read_row(keys, "rope_freqs.weight")
    return dump_rope_scaling(Factors(tuple((factors * factor).tolist())))


def read_row(keys: GgufKeys, name: str) -> NDArray[np.float32]:
    """A tensor of one float32 divisor per rotary frequency. Raises LoadError for another."""
    tensor = keys.tensor(name)
    size = keys.optional("rope.dimension_count", Count, _head_dim(keys)) // 2
    if tensor.shape != (size,) or tensor.type is not GGMLQuantizationType.F32:
        raise LoadError(f"{keys.path}: {name} is not a float32 row of {size}.")
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset)
        order = ">f4" if tensor.is_big_endian else "<f4"
        return np.frombuffer(file.read(tensor.num_bytes), order).astype(np.float32)


def _eos_token_ids(keys: GgufKeys) -> tuple[int, ...]:
    ids = {keys.anywhere(f"tokenizer.ggml.{key}", int | None) for key in _EOS_KEYS}
    return tuple(sorted(ids - {None}))


def _dtype(header: GgufHeader) -> str:
    """The dtype that most of the weights have or, if they are packed, should be unpacked to."""
    sizes: Counter[GGMLQuantizationType] = Counter()
    for tensor in header.tensors.values():
        sizes[tensor.type] += prod(tensor.shape)
    return _DTYPES.get(sizes.most_common(1)[0][0], _DEFAULT_DTYPE)
