"""Writes tiny models as llama.cpp's converter would: its names, keys and permuted rows."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type, GGUFWriter
from transformers import PreTrainedModel

from tests.engine.models import gguf_blocks, gguf_gemma, gguf_moe, gguf_phi

_ARCH = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    **gguf_gemma.ARCH,
    **gguf_moe.ARCH,
    **gguf_phi.ARCH,
}
_PERMUTED = ("llama", "smollm3")
_NAMES = (
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("model.layers.", "blk."),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
)


def write_gguf(
    model: PreTrainedModel,
    path: Path,
    kind: Type,
    num_files: int = 1,
    describe: Callable[[GGUFWriter], None] = lambda _: None,
    stacks_experts: bool = True,
) -> Path:
    """Pack `model`'s matrices as `kind` into `path`. Its weights become what the file holds.

    With more files than one, `path` must be the first of the splits by name. `describe` may add
    metadata, such as a tokenizer.
    """
    writers = [
        GGUFWriter(split, _ARCH[model.config.model_type]) for split in _splits(path, num_files)
    ]
    _add_metadata(writers[0], model)
    describe(writers[0])
    for index, (name, weight) in enumerate(_weights(model)):
        is_plain = weight.dim() == 1 or name.endswith("mlp.gate.weight")
        packed, type_ = _pack(weight, Type.F32 if is_plain else kind, seed=index)
        tensor = _named(writers[0].arch, model.config, name, packed)
        for part, data in [tensor] if stacks_experts else gguf_moe.unstacked(*tensor):
            data = np.ascontiguousarray(data)
            writers[index % num_files].add_tensor(part, data, raw_dtype=type_)
    for writer in writers:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def _splits(path: Path, count: int) -> list[Path]:
    if count == 1:
        return [path]
    stem = path.name.removesuffix(f"-00001-of-{count:05}.gguf")
    return [path.with_name(f"{stem}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]


def _weights(model: PreTrainedModel) -> Iterable[tuple[str, torch.Tensor]]:
    return [
        part
        for name, weight in model.named_parameters()
        for part in gguf_moe.parts(name, weight.data)
        if not (name == "lm_head.weight" and model.config.tie_word_embeddings)
    ]


def _pack(weight: torch.Tensor, kind: Type, seed: int) -> tuple[np.ndarray[Any, Any], Type]:
    packed, unpacked = gguf_blocks.pack(np.ascontiguousarray(weight.numpy()), kind, seed)
    weight.copy_(torch.from_numpy(unpacked))
    return packed, kind


def _named(
    arch: str, config: Any, name: str, packed: np.ndarray[Any, Any]
) -> tuple[str, np.ndarray[Any, Any]]:
    if arch in _PERMUTED and "q_proj" in name:
        packed = _permute(packed, config.num_attention_heads)
    if arch in _PERMUTED and "k_proj" in name:
        packed = _permute(packed, config.num_key_value_heads)
    if gguf_gemma.is_gemma(arch):
        name, packed = gguf_gemma.tensor(arch, name, packed)
    return gguf_name(name, arch, config.model_type), packed


def gguf_name(name: str, arch: str, model_type: str = "") -> str:
    """What a file of that architecture calls a tensor of Hugging Face's."""
    special = (*gguf_phi.NAMES.get(arch, ()), *gguf_moe.NAMES.get(model_type, ()))
    for hf, gguf in (*special, *_NAMES):
        name = name.replace(hf, gguf)
    return name


def _permute(rows: np.ndarray[Any, Any], num_heads: int) -> np.ndarray[Any, Any]:
    """As llama.cpp's LlamaModel.permute."""
    halves = rows.reshape(num_heads, 2, len(rows) // num_heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _add_metadata(writer: GGUFWriter, model: PreTrainedModel) -> None:
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    _add_norm_eps(writer, config)
    head_dim = getattr(config, "head_dim", None)
    if head_dim is not None:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if config.model_type in ("mistral", "mixtral") and config.sliding_window is not None:
        writer.add_sliding_window(config.sliding_window)
    if gguf_gemma.is_gemma(writer.arch):
        gguf_gemma.add_metadata(writer, config)
    gguf_moe.add_metadata(writer, config)
    _add_rope(writer, config)
    gguf_phi.add_metadata(writer, config)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{i}" for i in range(config.vocab_size)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(5)


def _add_norm_eps(writer: GGUFWriter, config: Any) -> None:
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(getattr(config, "layer_norm_eps", None) or config.norm_epsilon)


def _add_rope(writer: GGUFWriter, config: Any) -> None:
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_string(f"{writer.arch}.rope.scaling.type", "linear")
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_string(f"{writer.arch}.rope.scaling.type", "yarn")
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_divisors(rope, config.head_dim))


def _llama3_divisors(rope: dict[str, Any], head_dim: int) -> np.ndarray[Any, Any]:
    """As llama.cpp's LlamaModel.generate_extra_tensors."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / head_dim)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(rope["factor"])
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(divisors, dtype=np.float32)
