"""Whole models whose weights lie in planes, as on a GPU: loading, and logits by the kernels."""

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from engine.layers.linear import Linear
from engine.models.registry import load_class
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from engine.weights.footprint import model_bytes
from tests.engine.models import tiny
from tests.engine.models.gguf_files import write_gguf
from tests.engine.models.paged import PagedModel
from tests.engine.models.test_gguf_families import WIDE

SMALL = {**WIDE, "num_hidden_layers": 1}


def load(path):
    checkpoint = open_checkpoint(resolve(ModelRef(model=str(path))))
    model_class = load_class(checkpoint.config.architecture)
    model = model_class(checkpoint.config, torch.float32, torch.device("cpu"))
    model.load(checkpoint, None, is_exact=True)
    return model


@pytest.fixture
def in_planes(monkeypatch, launcher):
    """Load for the kernels of a GPU, which run on this machine's tensors."""
    launcher("packed_linear")
    for module in ("engine.weights.loader", "engine.layers.packed_experts"):
        monkeypatch.setattr(f"{module}.in_planes", lambda _: True)


def assert_same_logits(model, path):
    prompt = tiny.prompts()[2][:24]
    loaded = load(path)
    logits = PagedModel(loaded).prefill(prompt, chunk=20)
    assert (logits - tiny.reference_logits(model, prompt)).abs().max() < 1e-4
    return loaded


@pytest.mark.parametrize("kind", [Type.Q8_0, pytest.param(Type.Q4_K, marks=pytest.mark.nightly)])
def test_a_model_in_planes_has_the_logits_of_its_weights(kind, tmp_path, in_planes):
    model = tiny.make_model("llama3", **SMALL, tie_word_embeddings=True)
    path = write_gguf(model, tmp_path / "model.gguf", kind)
    loaded = assert_same_logits(model, path)
    linears = [module for module in loaded.modules() if isinstance(module, Linear)]
    assert all(len(linear.packed) == 1 and linear.packed[0].planes for linear in linears)
    assert loaded.lm_head.packed[0] is loaded.embedding.packed
    matrices = {id(linear.packed[0]): linear.packed[0] for linear in linears}
    taken = sum(matrix.num_bytes for matrix in matrices.values())
    taken += sum(parameter.nbytes for parameter in loaded.parameters())
    checkpoint = open_checkpoint(resolve(ModelRef(model=str(path))))
    foreseen = model_bytes(checkpoint, None, torch.float32, torch.device("cuda"))
    assert taken == pytest.approx(foreseen, rel=0.01)


def test_experts_in_planes_are_one_matrix(tmp_path, in_planes):
    model = tiny.make_model("qwen3-moe", **SMALL)
    loaded = assert_same_logits(model, write_gguf(model, tmp_path / "model.gguf", Type.Q8_0))
    assert loaded.layers[0].mlp.packed.gate_up.planes is not None
