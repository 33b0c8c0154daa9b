"""Whole models whose weights lie in planes, as on a GPU: loading, and logits by the kernels."""

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from engine.config import EngineConfig
from engine.layers.linear import Linear
from engine.models.registry import load_class
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from engine.weights.footprint import model_bytes
from engine.weights.isq import requested_isq
from tests.engine.models import tiny
from tests.engine.models.gguf_files import write_gguf
from tests.engine.models.paged import PagedModel
from tests.engine.models.test_gguf_families import WIDE

SMALL = {**WIDE, "num_hidden_layers": 1}


CPU = torch.device("cpu")


def load(path, isq=""):
    checkpoint = open_checkpoint(resolve(ModelRef(model=str(path))))
    model_class = load_class(checkpoint.config.architecture)
    model = model_class(checkpoint.config, torch.float32, CPU)
    asked = requested_isq(EngineConfig(isq=isq), CPU)
    model.load(checkpoint, None, is_exact=True, isq=asked)
    return model


def logits_of(model):
    return PagedModel(model).prefill(tiny.prompts()[2][:24], chunk=20)


@pytest.fixture
def use_planes(monkeypatch, launcher):
    """From its call on, load for the kernels of a GPU, which run on this machine's tensors."""

    def use():
        launcher("packed_linear")
        for module in ("engine.weights.loader", "engine.layers.packed_experts"):
            monkeypatch.setattr(f"{module}.in_planes", lambda _: True)

    return use


@pytest.fixture
def in_planes(use_planes):
    use_planes()


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


@pytest.mark.parametrize("isq", ["HQQ4", pytest.param("HQQ8", marks=pytest.mark.nightly)])
def test_a_model_in_hqq_stays_packed_each_projection_by_itself(isq, tmp_path, use_planes):
    path = write_gguf(tiny.make_model("llama3", **SMALL), tmp_path / "model.gguf", Type.F32)
    expected = logits_of(load(path, isq))
    use_planes()
    loaded = load(path, isq)
    assert (logits_of(loaded) - expected).abs().max() < 1e-4
    linears = [module for module in loaded.modules() if isinstance(module, Linear)]
    assert sorted(len(linear.packed) for linear in linears) == [1, 1, 1, 2, 3]
    assert all(matrix.planes for linear in linears for matrix in linear.packed)


def test_experts_that_cannot_be_joined_are_unpacked_and_the_log_says_so_once(
    tmp_path, use_planes, caplog
):
    model = tiny.make_model("qwen3-moe", **{**SMALL, "num_hidden_layers": 2})
    path = write_gguf(model, tmp_path / "model.gguf", Type.F32)
    load(path, "HQQ4")
    assert "experts are unpacked" not in caplog.text
    use_planes()
    loaded = load(path, "HQQ4")
    assert all(layer.mlp.packed is None for layer in loaded.layers)
    assert all(layer.mlp.gate_up_proj.any() for layer in loaded.layers)
    (record,) = [record for record in caplog.records if "experts are unpacked" in record.message]
    assert "model.layers.0.mlp.experts" in record.message
    linears = [module for module in loaded.modules() if isinstance(module, Linear)]
    matrices = [matrix for linear in linears for matrix in linear.packed]
    taken = sum(matrix.num_bytes for matrix in (*matrices, loaded.embedding.packed))
    taken += sum(parameter.nbytes for parameter in loaded.parameters())
    checkpoint = open_checkpoint(resolve(ModelRef(model=str(path))))
    asked = requested_isq(EngineConfig(isq="HQQ4"), CPU)
    foreseen = model_bytes(checkpoint, asked, torch.float32, torch.device("cuda"))
    assert taken == pytest.approx(foreseen, rel=0.01)
