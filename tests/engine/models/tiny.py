"""Tiny random checkpoints of every family, made by transformers. Knows nothing of the engine.

A name in `RECIPES` gives the config class and what sets it apart; `save_checkpoint` writes it as
transformers would, `reference_logits` is the truth for it.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.engine.models import recipes_gemma, recipes_moe, recipes_phi

VOCAB_SIZE = 320

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
_WINDOW = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}

_LLAMA = (LlamaConfig, LlamaForCausalLM)
_MISTRAL = (MistralConfig, MistralForCausalLM)
_QWEN2 = (Qwen2Config, Qwen2ForCausalLM)
_QWEN3 = (Qwen3Config, Qwen3ForCausalLM)

RECIPES: dict[str, tuple[tuple[Any, Any], dict[str, Any]]] = {
    "llama": (_LLAMA, {}),
    "llama-mha": (_LLAMA, {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama3": (_LLAMA, {"rope_parameters": _LLAMA3, "tie_word_embeddings": True}),
    "llama-linear": (_LLAMA, {"rope_parameters": _LINEAR}),
    "llama-yarn": (_LLAMA, {"rope_parameters": _YARN}),
    "llama-bias": (_LLAMA, {"attention_bias": True, "mlp_bias": True}),
    "mistral": (_MISTRAL, {"sliding_window": 8}),
    "mistral-full": (_MISTRAL, {"sliding_window": None, "head_dim": 32}),
    "qwen2": (_QWEN2, {"tie_word_embeddings": True}),
    "qwen2-window": (_QWEN2, _WINDOW),
    "qwen3": (_QWEN3, {"head_dim": 32}),
    "qwen3-window": (_QWEN3, {"head_dim": 32, "attention_bias": True, **_WINDOW}),
    **recipes_gemma.RECIPES,
    **recipes_phi.RECIPES,
    **recipes_moe.RECIPES,
}


def make_model(name: str, **changes: Any) -> PreTrainedModel:
    """A float32 model of the recipe with every weight, norms and biases too, drawn at random."""
    (config_class, model_class), special = RECIPES[name]
    config = config_class(**{**_SHAPE, **special, **changes})
    config._attn_implementation = "eager"
    model: PreTrainedModel = model_class(config).float().eval()
    randomise(model)
    return model


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Weights that make logits of order one, so that an error shows in them."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.copy_(1 + 0.2 * noise if weight.dim() == 1 else noise * weight.shape[-1] ** -0.5)


def save_checkpoint(name: str, directory: Path, **save_options: Any) -> Path:
    """Write the recipe's checkpoint to `directory` as transformers does; extra options go to it."""
    make_model(name).save_pretrained(directory, **save_options)
    return directory


@torch.no_grad()
def reference_logits(model: PreTrainedModel, token_ids: list[int]) -> Tensor:
    """Logits [len(token_ids), vocab] by transformers, the whole sequence at once."""
    logits: Tensor = model(torch.tensor([token_ids]), use_cache=False).logits[0]
    return logits


def prompts() -> list[list[int]]:
    """Sequences from one token to far past the sliding windows of the recipes."""
    generator = torch.Generator().manual_seed(7)
    return [
        torch.randint(0, VOCAB_SIZE, (length,), generator=generator).tolist()
        for length in (1, 9, 33, 70)
    ]
