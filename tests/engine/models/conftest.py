"""Tiny checkpoints of all families, and our models loaded from them, made once a session."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from engine.layers.decoder import Decoder
from engine.models.registry import load_class
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from tests.engine.models import tiny


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a recipe's checkpoint, written when it is first asked for."""
    root = tmp_path_factory.mktemp("checkpoints")
    return cache(lambda name: tiny.save_checkpoint(name, root / name))


@pytest.fixture(scope="session")
def reference() -> Callable[[str], PreTrainedModel]:
    """transformers' model of a recipe."""
    return cache(tiny.make_model)


@pytest.fixture(scope="session")
def load_model() -> Callable[..., Decoder]:
    """Our model from a directory or a GGUF file, in float32 unless told."""

    def load(path: Path, dtype: torch.dtype = torch.float32) -> Decoder:
        checkpoint = open_checkpoint(resolve(ModelRef(model=str(path))))
        device = torch.device("cpu")
        model_class = load_class(checkpoint.config.architecture)
        model = model_class(checkpoint.config, dtype, device)
        model.load(checkpoint)
        return model

    return load
