"""Files in BF16 and F16 on a CPU: their matrices stay as they are, and exact mode is exact."""

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from engine.config import EngineConfig
from engine.engine import load_engine
from engine.layers.linear import Linear
from engine.models.registry import load_class
from engine.weights import loader
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from kernels.cpu.native.bindings import load_library
from tests.engine.models import tiny
from tests.engine.models.gguf_files import write_gguf
from tests.engine.models.paged import PagedModel
from tests.engine.models.test_greedy import by_engine, by_transformers

pytestmark = pytest.mark.skipif(load_library() is None, reason="no compiler")

NAME = "llama3"  # its rows lie in another order in GGUF files
DTYPES = {Type.F16: torch.float16, Type.BF16: torch.bfloat16}
WAYS = [(form, kind) for form in ("safetensors", "gguf") for kind in DTYPES]


@pytest.fixture(autouse=True)
def any_model_is_large(monkeypatch):
    monkeypatch.setattr(loader, "MANY_BYTES", 0)


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{way[1].name}")
def rounded_llama(request, tmp_path):
    """A float32 model whose weights are the file's, its path, and the type of the file."""
    form, kind = request.param
    stored = tiny.make_model(NAME).to(DTYPES[kind])
    model = tiny.make_model(NAME)
    model.load_state_dict({name: value.float() for name, value in stored.state_dict().items()})
    if form == "gguf":
        return model.eval(), write_gguf(model, tmp_path / "model.gguf", kind), kind
    stored.save_pretrained(tmp_path)
    return model.eval(), tmp_path, kind


def load(path, *, is_exact):
    checkpoint = open_checkpoint(resolve(ModelRef(model=str(path))))
    model_class = load_class(checkpoint.config.architecture)
    model = model_class(checkpoint.config, torch.float32, torch.device("cpu"))
    model.load(checkpoint, None, is_exact=is_exact)
    return model


def test_every_matrix_stays_in_its_type(rounded_llama):
    _, path, kind = rounded_llama
    model = load(path, is_exact=True)
    linears = [module for module in model.modules() if isinstance(module, Linear)]
    assert {matrix.kind for linear in linears for matrix in linear.packed} == {int(kind)}
    assert all(linear.packed and not linear.weight.numel() for linear in linears)
    assert model.embedding.packed is not None


def test_greedy_tokens_in_exact_mode_are_transformers_own_in_float32(rounded_llama):
    model, path, _ = rounded_llama
    config = EngineConfig(
        device="cpu",
        dtype="float32",
        max_seqs=4,
        max_num_batched_tokens=11,
        kv_cache_bytes=1 << 22,
        cpu_activations="float",
    )
    engine = load_engine(resolve(ModelRef(model=str(path))), config)
    prompts = tiny.prompts()
    assert by_engine(engine, prompts) == [by_transformers(model, prompt) for prompt in prompts]


def test_logits_are_exact_or_round_their_inputs_to_bfloat16(rounded_llama):
    model, path, kind = rounded_llama
    prompt = tiny.prompts()[2]
    expected = tiny.reference_logits(model, prompt)
    exact = PagedModel(load(path, is_exact=True)).prefill(prompt, chunk=16)
    rounded = PagedModel(load(path, is_exact=False)).prefill(prompt, chunk=16)
    assert (exact - expected).abs().max() < 1e-4
    assert (rounded - expected).std() < 0.01 * expected.std()
    if kind == Type.F16:
        assert (rounded - expected).abs().max() < 1e-4


def test_a_small_model_of_floats_is_not_worth_a_compiler(rounded_llama, monkeypatch):
    _, path, _ = rounded_llama
    monkeypatch.setattr(loader, "MANY_BYTES", 1 << 20)
    linears = [m for m in load(path, is_exact=True).modules() if isinstance(m, Linear)]
    assert not any(linear.packed for linear in linears)
