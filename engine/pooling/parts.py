"""What a model for vectors or scores is put together from, once it is loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch

from engine.config import ModelConfig
from engine.pooling.engine import Head, States
from engine.pooling.heads import Dense, EmbeddingHead
from engine.pooling.recipe import DenseModule, Recipe
from engine.weights.checkpoint import Checkpoint
from engine.weights.files import ModelFiles
from engine.weights.loader import Loader
from engine.weights.safetensors import SafetensorsCheckpoint


class Parts(NamedTuple):
    """`recipe` is what, beside the weights, says which vectors they make."""

    states: States
    head: Head
    config: ModelConfig
    dtype: torch.dtype
    recipe: Recipe | None = None
    num_types: int = 0


class Identity(msgspec.Struct, frozen=True):
    """What two engines have in common whose vectors may stand in one answer."""

    config: ModelConfig
    task: str
    recipe: Recipe | None


def dense_files(files: ModelFiles, recipe: Recipe | None) -> tuple[Path, ...]:
    """The weights of the recipe's dense layers."""
    modules: Sequence[DenseModule] = () if recipe is None else recipe.dense
    return tuple(files.directory / module.folder / "model.safetensors" for module in modules)


def embedding_head(
    files: ModelFiles, recipe: Recipe, config: ModelConfig, device: torch.device
) -> EmbeddingHead:
    """The head that `recipe` describes, with its weights. Raises LoadError."""
    layers = [Dense(module, device) for module in recipe.dense]
    for layer, path in zip(layers, dense_files(files, recipe), strict=True):
        own = ModelFiles(
            kind="plain", name=path.parent.name, directory=path.parent, weights=(path,)
        )
        loader = Loader(SafetensorsCheckpoint(own, config=config), 0, None)
        layer.linear.load(loader, "linear")
        loader.check_unused(())
    return EmbeddingHead(recipe, config.hidden_size, layers)


def names_with(checkpoint: Checkpoint, prefix: str) -> dict[str, str]:
    """The names that begin so, to themselves."""
    return {name: name for name in checkpoint.names() if name.startswith(prefix)}
