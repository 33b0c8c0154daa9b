"""Writes sentence-transformers' files beside a checkpoint. Knows nothing of the engine."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

OLD = "sentence_transformers.models."
# where the classes are since sentence-transformers 5.4
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.",
    "Normalize": "sentence_transformers.sentence_transformer.modules.normalize.",
    "Dense": "sentence_transformers.base.modules.dense.",
}


def write_modules(directory: Path, kinds: Sequence[str], *, is_new: bool = False) -> None:
    """modules.json with these kinds in this order."""
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": "" if index == 0 else f"{index}_{kind}",
            "type": (NEW[kind] if is_new else OLD) + kind,
        }
        for index, kind in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))


def write_config(directory: Path, folder: str, config: dict[str, Any]) -> None:
    """A module's own config.json."""
    (directory / folder).mkdir(exist_ok=True)
    (directory / folder / "config.json").write_text(json.dumps(config))


def write_pooling(directory: Path, *switches: str) -> None:
    """1_Pooling with these modes on and the others off."""
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    modes += ("weightedmean_tokens", "lasttoken")
    config = {f"pooling_mode_{mode}": mode in switches for mode in modes}
    write_config(directory, "1_Pooling", {"word_embedding_dimension": 64, **config})


def write_dense(directory: Path, folder: str, weight: Tensor, bias: Tensor | None) -> None:
    """A Dense module of these weights, with Tanh."""
    config = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": bias is not None,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    write_config(directory, folder, config)
    tensors = {"linear.weight": weight} | ({} if bias is None else {"linear.bias": bias})
    save_file(tensors, directory / folder / "model.safetensors")


def random_matrix(*shape: int) -> Tensor:
    """Weights of a dense layer."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=generator) * shape[-1] ** -0.5
