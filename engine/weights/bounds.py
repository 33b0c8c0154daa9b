"""Bounds on what a configuration may claim, so that a hostile one costs no memory. Torch-free."""

from collections.abc import Iterable
from math import prod
from typing import Annotated

import msgspec

from engine.config import ModelConfig
from engine.errors import LoadError

# Configurations hold a value per layer before the weights are looked at. The deepest published
# models have between 100 and 200 layers.
LayerCount = Annotated[int, msgspec.Meta(gt=0, le=4096)]


def check_num_weights(config: ModelConfig, shapes: Iterable[tuple[int, ...]]) -> None:
    """Raise LoadError if tensors of these shapes are far too few for a model of `config`.

    To be asked before the model is made: layers, heads and experts that a file only claims to have
    would fill the memory long before the first tensor is found missing. Up to twice of what is
    there may be claimed, so that the error for a few missing tensors can name one.
    """
    least, there = _least_weights(config), sum(map(prod, shapes))
    if least > 2 * there:
        raise LoadError(
            f"By its configuration the model has {least} weights or more, but its files have "
            f"{there}; the files do not belong together."
        )


def _least_weights(config: ModelConfig) -> int:
    """The embedding, and of each layer the attention's matrices and two of each MLP."""
    rows = 2 * (config.num_heads + config.num_kv_heads) * config.head_dim
    num_expert_layers = config.num_layers - len(config.dense_layers) if config.num_experts else 0
    rows *= config.num_layers
    rows += num_expert_layers * 2 * config.num_experts * config.expert_intermediate_size
    rows += (config.num_layers - num_expert_layers) * 2 * config.intermediate_size
    return (config.vocab_size + rows) * config.hidden_size
