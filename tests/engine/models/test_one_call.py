"""Models whose layers are computed in one call, and those of another order, which are not."""

import pytest
from gguf import GGMLQuantizationType as Type

from kernels import ops
from kernels.cpu.native.bindings import load_library
from tests.engine.models import tiny
from tests.engine.models.gguf_files import write_gguf
from tests.engine.models.paged import PagedModel
from tests.engine.models.test_gguf_families import WIDE
from tests.engine.models.test_packed_weights import load

pytestmark = pytest.mark.skipif(load_library() is None, reason="no compiler")


@pytest.fixture
def calls(monkeypatch):
    """How many times layers were computed in one call."""
    made, packed_layers = [], ops.packed_layers

    def counted(*args):
        made.append(args)
        return packed_layers(*args)

    monkeypatch.setattr(ops, "packed_layers", counted)
    return made


@pytest.mark.parametrize("name", ["llama3", "qwen3"])
def test_one_call_gives_the_bits_that_layers_give_one_by_one(name, calls, tmp_path):
    model = tiny.make_model(name, **WIDE)
    loaded = load(write_gguf(model, tmp_path / "model.gguf", Type.Q8_0), is_exact=False)
    prompt = tiny.prompts()[2]
    in_one = PagedModel(loaded).prefill(prompt, chunk=16)
    num_calls = len(calls)
    loaded._stack = None
    one_by_one = PagedModel(loaded).prefill(prompt, chunk=16)
    assert 0 < num_calls == len(calls)
    assert in_one.equal(one_by_one)


@pytest.mark.parametrize("name", ["gemma2", "starcoder2"])
def test_layers_of_another_order_are_computed_one_by_one(name, calls, tmp_path):
    model = tiny.make_model(name, **WIDE)
    prompt = tiny.prompts()[2]
    loaded = load(write_gguf(model, tmp_path / "model.gguf", Type.Q8_0), is_exact=True)
    expected = tiny.reference_logits(model, prompt)  # of what the file has
    assert (PagedModel(loaded).prefill(prompt, chunk=16) - expected).abs().max() < 1e-4
    assert not calls
