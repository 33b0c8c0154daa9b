"""The same models in transformers: what right logits are, and how fast it is."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from engine.config import ModelConfig


def make_peer(
    config: ModelConfig,
    weight: Callable[[str], Tensor],
    dtype: torch.dtype,
    device: torch.device,
) -> Any:
    """A model of transformers with the weights that `weight` gives by name."""
    from transformers import AutoModelForCausalLM

    with torch.device(device):
        model = AutoModelForCausalLM.from_config(_config(config), dtype=dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weight(name))
    return model.eval()


def _config(config: ModelConfig) -> Any:
    from transformers import LlamaConfig, Qwen3Config

    kind = {"LlamaForCausalLM": LlamaConfig, "Qwen3ForCausalLM": Qwen3Config}
    return kind[config.architecture](
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context_length,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
