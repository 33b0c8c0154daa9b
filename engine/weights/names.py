"""What a GGUF file calls the tensors that Hugging Face checkpoints name. Knows names only."""

import re
from collections.abc import Mapping

_ROOT = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_EXPERT = {
    "ffn_gate": "gate_proj",
    "ffn_up": "up_proj",
    "ffn_down": "down_proj",
}
_EXPERT_TENSOR = re.compile(
    r"blk\.(?P<layer>\d+)\.(?P<part>ffn_gate|ffn_up|ffn_down)\.(?P<expert>\d+)\.weight"
)
_BLOCK_TENSOR = re.compile(r"blk\.(?P<layer>\d+)\.(?P<part>\w+)\.(?P<kind>weight|bias)")
_HF_BLOCK = re.compile(r"model\.layers\.(?P<layer>\d+)\.(?P<part>[\w.]+)")
_GGUF_ROOT = {hf: gguf for gguf, hf in _ROOT.items()}
_GGUF_BLOCK = {hf: gguf for gguf, hf in _BLOCK.items()}
_ROOT_TENSOR = re.compile(r"(?P<part>\w+)\.(?P<kind>weight|bias)")


def hf_name(gguf_name: str, names: Mapping[str, str]) -> str:
    """The Hugging Face name of a GGUF tensor; a name without a counterpart stays as it is.

    `names` are those of block and root tensors that the family has otherwise.
    """
    if match := _EXPERT_TENSOR.fullmatch(gguf_name):
        stem = f"model.layers.{match['layer']}.mlp.experts.{match['expert']}"
        return f"{stem}.{_EXPERT[match['part']]}.weight"
    if match := _BLOCK_TENSOR.fullmatch(gguf_name):
        part = names.get(match["part"], _BLOCK.get(match["part"]))
        return f"model.layers.{match['layer']}.{part}.{match['kind']}" if part else gguf_name
    if match := _ROOT_TENSOR.fullmatch(gguf_name):
        part = names.get(match["part"], _ROOT.get(match["part"]))
        return f"{part}.{match['kind']}" if part else gguf_name
    return gguf_name


def gguf_name(hf_name: str) -> str | None:
    """The way back, for families without names of their own; None without a counterpart."""
    module, _, kind = hf_name.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    if match := _HF_BLOCK.fullmatch(module):
        part = _GGUF_BLOCK.get(match["part"])
        return f"blk.{match['layer']}.{part}.{kind}" if part else None
    return f"{_GGUF_ROOT[module]}.{kind}" if module in _GGUF_ROOT else None
