"""Writes a tiny random Llama in safetensors, for tests that need a real model and no reference."""

from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file

from engine.weights.files import ModelFiles, ModelRef, resolve

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, LAYERS = 32, 4, 2, 8, 48, 3
VOCAB_SIZE = 120
CONTEXT_LENGTH = 128
EOS_ID = 2


def write(directory: Path, seed: int = 0) -> ModelFiles:
    """Make the model's files in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": CONTEXT_LENGTH,
        "rms_norm_eps": 1e-5,
        "eos_token_id": EOS_ID,
    }
    (directory / "config.json").write_bytes(msgspec.json.encode(config))
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in _shapes().items():
        is_norm = name.endswith("norm.weight")
        scale = 1.0 if is_norm else 2.0 / shape[-1] ** 0.5
        tensors[name] = torch.randn(shape, generator=generator) * scale
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return resolve(ModelRef(model=str(directory)))


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB_SIZE, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB_SIZE, HIDDEN),
    }
    for i in range(LAYERS):
        prefix = f"model.layers.{i}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (HIDDEN,),
            f"{prefix}.post_attention_layernorm.weight": (HIDDEN,),
            f"{prefix}.self_attn.q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}.self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}.self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}.self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
            f"{prefix}.mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{prefix}.mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{prefix}.mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        }
    return shapes
