"""Writes tiny Llama models as llama.cpp's converter did before GGUF: ggml, ggmf and ggjt files."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from transformers import PreTrainedModel

from tests.engine.models.gguf_files import _pack as pack, _permute as permute
from tests.engine.quant.old_blocks import to_old_blocks

MAGICS = {"ggml": b"lmgg", "ggmf": b"fmgg", "ggjt": b"tjgg"}
_NAMES = (
    ("model.embed_tokens", "tok_embeddings"),
    ("model.norm", "norm"),
    ("lm_head", "output"),
    ("model.layers.", "layers."),
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attention.wq"),
    ("self_attn.k_proj", "attention.wk"),
    ("self_attn.v_proj", "attention.wv"),
    ("self_attn.o_proj", "attention.wo"),
    ("mlp.gate_proj", "feed_forward.w1"),
    ("mlp.down_proj", "feed_forward.w2"),
    ("mlp.up_proj", "feed_forward.w3"),
)


def write_ggml(
    model: PreTrainedModel,
    path: Path,
    kind: Type = Type.F32,
    magic: str = "ggjt",
    version: int = 3,
    vocab: Sequence[tuple[bytes, float]] | None = None,
) -> Path:
    """Write `model` with its matrices as `kind`. Its weights become what the file holds.

    `version` is that of the file, or 1 for the magics before ggjt.
    """
    config = model.config
    vocab = vocab or [(b"token%d" % i, float(-i)) for i in range(config.vocab_size)]
    data = bytearray(MAGICS[magic])
    if magic != "ggml":
        data += struct.pack("<I", version)
    head_dim = config.hidden_size // config.num_attention_heads
    numbers = (len(vocab), config.hidden_size, 256, config.num_attention_heads)
    data += struct.pack("<7I", *numbers, config.num_hidden_layers, head_dim, int(kind))
    for text, score in vocab:
        data += struct.pack("<I", len(text)) + text
        data += struct.pack("<f", score) if magic != "ggml" else b""
    for name, weight in model.named_parameters():
        add_tensor(data, config, name, weight.data, kind, version, is_aligned=magic == "ggjt")
    path.write_bytes(data)
    return path


def add_tensor(
    data: bytearray,
    config: Any,
    name: str,
    weight: torch.Tensor,
    kind: Type,
    version: int,
    *,
    is_aligned: bool,
) -> None:
    """Append a tensor; one of one dimension is float32."""
    kind = Type.F32 if weight.dim() == 1 else kind
    rows, _ = pack(weight, kind, seed=len(data))
    if version < 3 and kind not in (Type.F32, Type.F16):
        count = weight.numel() // 32
        rows = to_old_blocks(rows.reshape(count, -1), kind, version).reshape(len(rows), -1)
    if "q_proj" in name:
        rows = permute(rows, config.num_attention_heads)
    if "k_proj" in name:
        rows = permute(rows, config.num_key_value_heads)
    for hf, meta in _NAMES:
        name = name.replace(hf, meta)
    text = name.encode()
    data += struct.pack("<3I", weight.dim(), len(text), int(kind))
    data += struct.pack(f"<{weight.dim()}I", *reversed(weight.shape)) + text
    if is_aligned:
        data += bytes(-len(data) % 32)
    data += np.ascontiguousarray(rows).tobytes()
