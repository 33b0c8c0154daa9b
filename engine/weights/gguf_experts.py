"""Experts in GGUF files: the metadata, and stacked tensors taken apart expert by expert.

Torch-free. llama.cpp's files have one tensor for a projection of all experts (`ffn_up_exps`, [E,
out, in]); those from before April 2024 have one for each (`ffn_up.0`), the names used here.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from engine.weights.gguf_keys import Count, GgufKeys
from engine.weights.gguf_metadata import GgufTensor

_STACKED = re.compile(r"(?P<stem>blk\.\d+\.ffn_(?:gate|up|down))_exps\.weight")
_MAX_EXPERTS = 4096  # published models have 512; an empty tensor may claim any number


def expert_fields(keys: GgufKeys, inner_size: int) -> dict[str, Any]:
    """The fields of ModelConfig about experts; `inner_size` is the width of one.

    Layers without a router have none. llama.cpp gives the chosen ones weights that add up to one.
    """
    num_layers = keys.required("block_count", Count)
    return {
        "num_experts": keys.required("expert_count", Count),
        "num_experts_per_token": keys.required("expert_used_count", Count),
        "expert_intermediate_size": inner_size,
        "is_topk_normalised": True,
        "dense_layers": tuple(
            layer for layer in range(num_layers) if not keys.has(f"blk.{layer}.ffn_gate_inp.weight")
        ),
    }


def split_experts(tensors: Iterable[GgufTensor]) -> Iterator[GgufTensor]:
    """The same tensors, with each expert's part of a stacked one by itself.

    An expert is then read, unpacked and freed before the next; a whole stack of Mixtral's would
    take two gigabytes in float32.
    """
    for tensor in tensors:
        match = _STACKED.fullmatch(tensor.name)
        if match and len(tensor.shape) == 3 and 0 < tensor.shape[0] <= _MAX_EXPERTS:
            yield from _parts(tensor, match["stem"])
        else:
            yield tensor


def _parts(tensor: GgufTensor, stem: str) -> Iterator[GgufTensor]:
    num_experts, *shape = tensor.shape
    num_bytes = tensor.num_bytes // num_experts
    for expert in range(num_experts):
        yield tensor._replace(
            name=f"{stem}.{expert}.weight",
            shape=tuple(shape),
            offset=tensor.offset + expert * num_bytes,
            num_bytes=num_bytes,
        )
