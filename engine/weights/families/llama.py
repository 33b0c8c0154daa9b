"""What the files of Llama 1, 2 and 3 say, and the GGUF files of all that llama.cpp calls llama."""

from typing import Any

from engine.errors import LoadError
from engine.weights.gguf_experts import expert_fields
from engine.weights.gguf_keys import Count, GgufFamily, GgufKeys
from engine.weights.hf_keys import RmsNormKeys

HF = {"LlamaForCausalLM": RmsNormKeys}


def _fields(keys: GgufKeys) -> dict[str, Any]:
    _check_rotary(keys)
    # Files of Mixtral say llama too.
    if keys.optional("expert_count", int, 0):
        inner_size = keys.required("feed_forward_length", Count)
        return {"architecture": "MixtralForCausalLM", **expert_fields(keys, inner_size)}
    # Mistral's files say llama; what sets Mistral apart is its window.
    is_mistral = keys.optional("attention.sliding_window", int, 0) > 0
    return {"architecture": "MistralForCausalLM"} if is_mistral else {}


def _check_rotary(keys: GgufKeys) -> None:
    """The rows of a head that is turned in part have an order that nobody wrote down."""
    turned = keys.optional("rope.dimension_count", int, 0)
    size = keys.required("embedding_length", int) // keys.required("attention.head_count", int)
    if turned and turned != keys.optional("attention.key_length", int, size):
        raise LoadError(
            f"{keys.path}: {keys.prefix}.rope.dimension_count is {turned} and the heads have {size}"
            "; other sizes are not supported."
        )


GGUF = {"llama": GgufFamily("LlamaForCausalLM", _fields, is_permuted=True)}
