"""What llama.cpp's converter does for Gemma and for no other, after its Gemma*Model classes.

Tensors have the names of gguf-py's own table.
"""

from functools import cache
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, get_tensor_name_map

ARCH = {"gemma": "gemma", "gemma2": "gemma2", "gemma3_text": "gemma3"}
RECIPES = (
    "gemma",
    "gemma-mqa",
    "gemma2",
    "gemma2-tight",
    "gemma3",
    "gemma3-linear",
    "gemma3-capped",
)
_ARCHS = {name: arch for arch, name in MODEL_ARCH_NAMES.items() if name in ARCH.values()}


def is_gemma(arch: str) -> bool:
    return arch in _ARCHS


def tensor(arch: str, name: str, packed: np.ndarray[Any, Any]) -> tuple[str, np.ndarray[Any, Any]]:
    """The name and the values in the file: norms are multiplied by the sum, so that is stored."""
    renamed = _names(_ARCHS[arch]).get_name(name, try_suffixes=(".weight", ".bias"))
    assert renamed is not None, name
    return renamed, packed + np.float32(1) if name.endswith("norm.weight") else packed


@cache
def _names(arch: MODEL_ARCH) -> Any:
    return get_tensor_name_map(arch, 62)  # Gemma 3 27B, the deepest


def add_metadata(writer: GGUFWriter, config: Any) -> None:
    if writer.arch == "gemma":
        return
    writer.add_sliding_window(config.sliding_window)
    if writer.arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if config.final_logit_softcapping is not None:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    is_local = [kind == "sliding_attention" for kind in config.layer_types]
    if writer.arch == "gemma3" and is_local != [bool((i + 1) % 6) for i in range(len(is_local))]:
        writer.add_sliding_window_pattern(is_local)
