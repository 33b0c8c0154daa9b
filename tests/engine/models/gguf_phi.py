"""What llama.cpp's converter writes of Phi and StarCoder2, for `gguf_files`."""

import math
from typing import Any

import numpy as np
from gguf import GGUFWriter

ARCH = {"phi": "phi2", "phi3": "phi3", "starcoder2": "starcoder2"}

# By architecture: Hugging Face's names that others do not share.
NAMES = {
    "phi2": (
        ("model.final_layernorm", "output_norm"),
        ("self_attn.dense", "attn_output"),
        ("mlp.fc1", "ffn_up"),
        ("mlp.fc2", "ffn_down"),
    ),
    "phi3": (("self_attn.qkv_proj", "attn_qkv"), ("mlp.gate_up_proj", "ffn_up")),
    "starcoder2": (("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down")),
}


def add_metadata(writer: GGUFWriter, config: Any) -> None:
    """The keys and tensors of `config` that only these architectures have."""
    if writer.arch in ("phi2", "phi3"):
        share = config.rope_parameters.get("partial_rotary_factor", 1.0)
        writer.add_rope_dimension_count(
            int(share * config.hidden_size) // config.num_attention_heads
        )
    if writer.arch == "phi3":
        writer.add_sliding_window(config.sliding_window or 0)
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        if config.rope_parameters["rope_type"] == "longrope":
            _add_long_rope(writer, config)
    if writer.arch == "starcoder2" and config.sliding_window is not None:
        writer.add_sliding_window(config.sliding_window)


def _add_long_rope(writer: GGUFWriter, config: Any) -> None:
    """As llama.cpp's Phi3MiniModel.generate_extra_tensors; like it, no type of scaling."""
    rope, original = config.rope_parameters, config.original_max_position_embeddings
    scale = rope.get("factor") or config.max_position_embeddings / original
    writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)))
    for kind in ("long", "short"):
        factors = np.array(rope[f"{kind}_factor"], dtype=np.float32)
        writer.add_tensor(f"rope_factors_{kind}.weight", factors)
