"""Which file has which model family. Torch-free: a family is imported when it is chosen."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from engine.errors import LoadError

if TYPE_CHECKING:
    import torch

    from engine.config import ModelConfig
    from engine.layers.decoder import Decoder

    ModelClass = Callable[[ModelConfig, torch.dtype, torch.device], Decoder]

MODELS = {
    "GemmaForCausalLM": "engine.models.gemma",
    "Gemma2ForCausalLM": "engine.models.gemma2",
    "Gemma3ForCausalLM": "engine.models.gemma3",
    "Gemma3ForConditionalGeneration": "engine.models.gemma3",
    "LlamaForCausalLM": "engine.models.llama",
    "MistralForCausalLM": "engine.models.mistral",
    "MixtralForCausalLM": "engine.models.mixtral",
    "Olmo2ForCausalLM": "engine.models.olmo2",
    "Phi3ForCausalLM": "engine.models.phi3",
    "PhiForCausalLM": "engine.models.phi",
    "Qwen2ForCausalLM": "engine.models.qwen2",
    "Qwen3ForCausalLM": "engine.models.qwen3",
    "Qwen3MoeForCausalLM": "engine.models.qwen3_moe",
    "SmolLM3ForCausalLM": "engine.models.smollm3",
    "Starcoder2ForCausalLM": "engine.models.starcoder2",
}

# `general.architecture` of GGUF files -> the module of weights/families that reads them.
GGUF_FAMILIES = {
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "llama": "llama",
    "olmo2": "olmo2",
    "phi2": "phi",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
    "smollm3": "smollm3",
    "starcoder2": "starcoder2",
}


# What stands in the place of `ForCausalLM` where a decoder has no head, or a classifier for one.
HEADLESS, CLASSIFIER = "Model", "ForSequenceClassification"
_CAUSAL = "ForCausalLM"


def decoder_of(architecture: str) -> str:
    """The architecture of `MODELS` that a decoder is under another head; else the name itself."""
    for head in (HEADLESS, CLASSIFIER):
        if (name := architecture.removesuffix(head) + _CAUSAL) in MODELS:
            return name
    return architecture


def check_architecture(architecture: str) -> None:
    """Raise LoadError, naming the known ones, for an architecture that no file here implements."""
    if architecture not in MODELS:
        raise LoadError(
            f"The model's architecture {architecture} is not supported; supported are "
            f"{', '.join(MODELS)}."
        )


def load_class(architecture: str) -> "ModelClass":
    """The class that implements `architecture`, called as `(config, dtype, device)`.

    Raises LoadError as `check_architecture` does.
    """
    check_architecture(architecture)
    module = import_module(MODELS[architecture])
    model_class: ModelClass = getattr(module, architecture)
    return model_class
