"""How llama.cpp's converter names and stacks what gguf_files.py does not know.

That is experts, SmolLM3 and OLMo 2. Layouts: the stacked one, and the one from before April 2024
with a tensor for each expert.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from gguf import GGUFWriter
from torch import Tensor

ARCH = {"mixtral": "llama", "qwen3_moe": "qwen3moe", "smollm3": "smollm3", "olmo2": "olmo2"}
_EXPERTS = (
    ("mlp.gate.weight", "ffn_gate_inp.weight"),
    ("mlp.experts.gate_proj", "ffn_gate_exps.weight"),
    ("mlp.experts.up_proj", "ffn_up_exps.weight"),
    ("mlp.experts.down_proj", "ffn_down_exps.weight"),
)
NAMES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "mixtral": _EXPERTS,
    "qwen3_moe": _EXPERTS,
    "olmo2": (
        ("post_attention_layernorm", "post_attention_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ),
}
# Recipes that a GGUF file can tell: SmolLM3's is llama.cpp's own pattern, experts' weights add up.
RECIPES = ("mixtral", "mixtral-full", "qwen3-moe", "smollm3", "olmo2", "olmo2-linear")


def parts(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A parameter of transformers as the tensors of a file: views, gate and up apart."""
    if not name.endswith("experts.gate_up_proj"):
        yield name, weight
        return
    gate, up = weight.chunk(2, dim=1)
    yield name.replace("gate_up_proj", "gate_proj"), gate
    yield name.replace("gate_up_proj", "up_proj"), up


def unstacked(name: str, data: Any) -> Iterator[tuple[str, Any]]:
    """A tensor of a file as older files have it: an expert each."""
    if "_exps." not in name:
        yield name, data
        return
    for expert, rows in enumerate(data):
        yield name.replace("_exps.", f".{expert}."), rows


def add_metadata(writer: GGUFWriter, config: Any) -> None:
    """The keys of experts; nothing for a model without."""
    if config.model_type in ("mixtral", "qwen3_moe"):
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if config.model_type == "qwen3_moe":
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
