"""GGUF files of real models' shapes with random weights, in the mixtures of llama.cpp."""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type, GGUFWriter, TokenType
from gguf.constants import GGML_QUANT_SIZES
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel


class Shape(NamedTuple):
    """What a decoder with grouped-query attention is by its numbers."""

    arch: str
    hidden: int
    inner: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    has_qk_norm: bool


SHAPES = {
    "tiny": Shape("qwen3", 256, 512, 2, 4, 2, 64, 2048, True),
    "qwen3-0.6b": Shape("qwen3", 1024, 3072, 28, 16, 8, 128, 151936, True),
    "llama-3.2-1b": Shape("llama", 2048, 8192, 16, 32, 8, 64, 128256, False),
}
END = "<|end|>"
MIXTURES = ("Q4_0", "Q4_K_M", "Q6_K", "Q8_0", "BF16", "F16")
_FLOATS = {Type.BF16: torch.bfloat16, Type.F16: torch.float16}
# Offset and value of each float16 scale of a block, such that weights are about 0.02.
_SCALES = {
    Type.Q4_0: {0: 4.3e-3},
    Type.Q8_0: {0: 2.7e-4},
    Type.Q4_K: {0: 1.4e-4, 2: 1.05e-3},
    Type.Q6_K: {208: 1.5e-5},
}


def write_random(path: Path, shape: Shape, mixture: str) -> Path:
    """A file that both engines load; its text is nonsense."""
    writer = GGUFWriter(path, shape.arch, use_temp_file=True)
    _add_metadata(writer, shape)
    for seed, (name, size) in enumerate(_tensors(shape)):
        if len(size) == 1:
            writer.add_tensor(name, np.ones(size, dtype=np.float32))
            continue
        kind = _type(name, mixture, shape.num_layers)
        writer.add_tensor(name, _blocks(size, kind, seed), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    query, key = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    yield "token_embd.weight", (shape.vocab, shape.hidden)
    for layer in range(shape.num_layers):
        parts = {
            "attn_norm": (shape.hidden,),
            "attn_q": (query, shape.hidden),
            "attn_k": (key, shape.hidden),
            "attn_v": (key, shape.hidden),
            "attn_output": (shape.hidden, query),
            "ffn_norm": (shape.hidden,),
            "ffn_gate": (shape.inner, shape.hidden),
            "ffn_up": (shape.inner, shape.hidden),
            "ffn_down": (shape.hidden, shape.inner),
        }
        if shape.has_qk_norm:
            parts |= {"attn_q_norm": (shape.head_dim,), "attn_k_norm": (shape.head_dim,)}
        for name, size in parts.items():
            yield f"blk.{layer}.{name}.weight", size
    yield "output_norm.weight", (shape.hidden,)


def _type(name: str, mixture: str, num_layers: int) -> Type:
    """llama.cpp's choice for a model whose output is its embedding."""
    if name == "token_embd.weight":
        return Type.Q6_K if mixture in ("Q4_0", "Q4_K_M") else Type[mixture]
    if mixture != "Q4_K_M":
        return Type[mixture]
    layer, eighth = int(name.split(".")[1]), num_layers // 8
    has_more = layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2
    return Type.Q6_K if has_more and ("attn_v" in name or "ffn_down" in name) else Type.Q4_K


def _blocks(size: tuple[int, ...], kind: Type, seed: int) -> NDArray[np.uint8]:
    num_weights, num_bytes = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    if kind in _FLOATS:
        weights = torch.from_numpy(0.02 * rng.standard_normal(size, np.float32))
        return weights.to(_FLOATS[kind]).view(torch.uint8).numpy()
    blocks = rng.integers(0, 256, (prod(size) // num_weights, num_bytes), dtype=np.uint8)
    for offset, scale in _SCALES[kind].items():
        scales = (scale * rng.uniform(0.8, 1.2, len(blocks))).astype(np.float16)
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(*size[:-1], -1)


def _add_metadata(writer: GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    _add_tokenizer(writer, shape.vocab)


def _add_tokenizer(writer: GGUFWriter, vocab: int) -> None:
    """Byte-level BPE of the right size, of which text gets the bytes: a token for every letter."""
    tokens = [*ByteLevel.alphabet(), "to", END]
    tokens += [f"token{index}" for index in range(len(tokens), vocab)]
    types = [TokenType.NORMAL] * vocab
    types[tokens.index(END)] = TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["t o"])
    writer.add_bos_token_id(tokens.index(END))
    writer.add_eos_token_id(tokens.index(END))
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for message in messages %}{{ message.content }}{% endfor %}")
