"""Models whose weights stay in a file's blocks: what stays packed, and what int8 inputs cost."""

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from engine.config import EngineConfig
from engine.engine import load_engine
from engine.layers.decoder import Decoder
from engine.layers.linear import Linear
from engine.models.registry import load_class
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from kernels.cpu.native.bindings import load_library
from tests.engine.models import tiny
from tests.engine.models.gguf_files import write_gguf
from tests.engine.models.paged import PagedModel
from tests.engine.models.test_gguf_families import WIDE
from tests.engine.models.test_greedy import by_engine

pytestmark = pytest.mark.skipif(load_library() is None, reason="no compiler")


def linears(model: Decoder) -> list[Linear]:
    return [module for module in model.modules() if isinstance(module, Linear)]


def load(path, *, is_exact, progress=None):
    checkpoint = open_checkpoint(resolve(ModelRef(model=str(path))))
    model_class = load_class(checkpoint.config.architecture)
    model = model_class(checkpoint.config, torch.float32, torch.device("cpu"))
    model.load(checkpoint, progress, is_exact=is_exact)
    return model


@pytest.fixture(
    params=[Type.Q8_0, Type.Q4_K, Type.Q6_K, Type.IQ4_NL, Type.IQ4_XS, Type.MXFP4],
    ids=lambda kind: kind.name,
)
def packed_llama(request, tmp_path):
    model = tiny.make_model("llama3", **WIDE)
    return model, write_gguf(model, tmp_path / "model.gguf", request.param)


def test_every_matrix_stays_packed_and_no_larger_than_the_file(packed_llama):
    _, path = packed_llama
    model = load(path, is_exact=True)
    assert all(linear.packed and not linear.weight.numel() for linear in linears(model))
    matrices = {m.data.data_ptr(): m for linear in linears(model) for m in linear.packed}
    assert model.embedding.packed is not None
    matrices[model.embedding.packed.data.data_ptr()] = model.embedding.packed
    assert sum(m.data.nbytes for m in matrices.values()) < 1.1 * path.stat().st_size


@pytest.mark.parametrize(
    ("kind", "bits"), [(Type.IQ2_S, 5), (Type.IQ3_XXS, 5), (Type.TQ2_0, 5), (Type.Q8_K, 9)]
)
def test_a_type_without_kernels_of_its_own_stays_packed_in_another(kind, bits, tmp_path):
    model = tiny.make_model("llama3", **WIDE)
    loaded = load(write_gguf(model, tmp_path / "model.gguf", kind), is_exact=True)
    matrices = [matrix for linear in linears(loaded) for matrix in linear.packed]
    assert all(m.data.nbytes * 8 < bits * m.num_rows * m.num_columns for m in matrices)
    prompt = tiny.prompts()[2]
    expected = tiny.reference_logits(model, prompt)
    assert (PagedModel(loaded).prefill(prompt, chunk=16) - expected).abs().max() < 1e-4


def test_a_tied_output_is_the_embedding(tmp_path):
    model = tiny.make_model("llama3", **WIDE, tie_word_embeddings=True)
    loaded = load(write_gguf(model, tmp_path / "model.gguf", Type.Q4_K), is_exact=False)
    (head,) = loaded.lm_head.packed
    assert head is loaded.embedding.packed
    assert loaded.lm_head.is_exact is False


def test_progress_ends_at_the_whole(packed_llama):
    calls = []
    load(packed_llama[1], is_exact=True, progress=lambda *call: calls.append(call))
    assert calls[-1][0] == calls[-1][1] > 0


def test_int8_inputs_change_logits_a_little(packed_llama):
    model, path = packed_llama
    prompt = tiny.prompts()[2]
    expected = tiny.reference_logits(model, prompt)
    exact = PagedModel(load(path, is_exact=True)).prefill(prompt, chunk=16)
    rounded = PagedModel(load(path, is_exact=False)).prefill(prompt, chunk=16)
    assert (exact - expected).abs().max() < 1e-4
    assert 0 < (rounded - expected).std() < 0.03 * expected.std()


def test_a_type_without_kernels_is_unpacked_with_its_neighbours(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.weights.loader.can_pack", lambda kind, _: kind != Type.Q4_K)
    model = tiny.make_model("llama3", **WIDE)
    loaded = load(write_gguf(model, tmp_path / "model.gguf", Type.Q4_K), is_exact=False)
    assert not any(linear.packed for linear in linears(loaded))
    prompt = tiny.prompts()[2]
    expected = tiny.reference_logits(model, prompt)
    assert (PagedModel(loaded).prefill(prompt, chunk=16) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("activations", ["int8", "float"])
def test_greedy_tokens_do_not_depend_on_the_batch(packed_llama, activations):
    config = EngineConfig(
        device="cpu",
        max_seqs=4,
        max_num_batched_tokens=11,
        kv_cache_bytes=1 << 24,
        cpu_activations=activations,
        enable_prefix_cache=False,
    )
    engine = load_engine(resolve(ModelRef(model=str(packed_llama[1]))), config)
    prompts = tiny.prompts()
    alone = [by_engine(engine, [prompt])[0] for prompt in prompts]
    assert by_engine(engine, prompts) == alone
