"""Logits from GGUF files against transformers with the weights that the file holds."""

import pytest
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES

from engine.errors import LoadError
from engine.weights.gguf_metadata import PLAIN_TYPES, read_gguf
from tests.engine.models import gguf_files, gguf_gemma, gguf_moe, tiny
from tests.engine.models.gguf_files import write_gguf
from tests.engine.models.paged import PagedModel

TOLERANCE = 1e-4

# K types pack 256 weights of a row into a block.
WIDE = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "moe_intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
}
PACKED = [kind for kind in GGML_QUANT_SIZES if kind not in PLAIN_TYPES]
RECIPES = (
    "llama",
    "llama3",
    "llama-linear",
    "llama-yarn",
    "llama-bias",
    "mistral",
    "qwen2",
    "qwen3",
    *gguf_gemma.RECIPES,
    "phi",
    "phi3",
    "phi3-window",
    "phi3-partial",
    "phi3-long",
    "phi3-long-window",
    "starcoder2",
    "starcoder2-window",
    *gguf_moe.RECIPES,
)


def max_error(model, path, load_model):
    prompt = tiny.prompts()[2]
    expected = tiny.reference_logits(model, prompt)
    assert 0.1 < expected.std() < 100, "the logits would not show an error"
    actual = PagedModel(load_model(path)).prefill(prompt, chunk=16)
    return (actual - expected).abs().max()


@pytest.mark.parametrize("name", RECIPES)
def test_an_unpacked_file_has_transformers_logits(name, tmp_path, load_model):
    model = tiny.make_model(name)
    path = write_gguf(model, tmp_path / "model.gguf", Type.F32)
    assert max_error(model, path, load_model) <= TOLERANCE


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0], ids=lambda t: t.name)
@pytest.mark.parametrize(
    "name", ["llama", "qwen2", "qwen3", "phi", "phi3", "starcoder2", "mixtral", "smollm3"]
)
def test_a_packed_file_has_the_logits_of_its_weights(name, kind, tmp_path, load_model):
    model = tiny.make_model(name)
    path = write_gguf(model, tmp_path / "model.gguf", kind)
    assert max_error(model, path, load_model) <= TOLERANCE


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_K], ids=lambda t: t.name)
@pytest.mark.parametrize("name", ["gemma", "gemma2", "gemma3"])
def test_a_packed_gemma_has_the_logits_of_its_weights(name, kind, tmp_path, load_model):
    model = tiny.make_model(name, **WIDE)
    path = write_gguf(model, tmp_path / "model.gguf", kind)
    assert max_error(model, path, load_model) <= TOLERANCE


@pytest.mark.parametrize("kind", [Type.Q4_K, Type.Q5_K, Type.Q6_K], ids=lambda t: t.name)
@pytest.mark.parametrize(
    "name",
    ["llama3", "qwen2", "qwen3", "phi", "phi3", "starcoder2", "mixtral", "qwen3-moe", "olmo2"],
)
def test_a_k_packed_file_has_the_logits_of_its_weights(name, kind, tmp_path, load_model):
    model = tiny.make_model(name, **WIDE)
    path = write_gguf(model, tmp_path / "model.gguf", kind)
    assert max_error(model, path, load_model) <= TOLERANCE


@pytest.mark.parametrize("kind", PACKED, ids=lambda t: t.name)
def test_every_packed_type_has_the_logits_of_its_weights(kind, tmp_path, load_model, monkeypatch):
    """Through the permuted rows of Llama's queries and keys too."""
    monkeypatch.setitem(GGML_QUANT_SIZES, Type.Q8_1, (32, 36))  # gguf-py counts 40 bytes
    model = tiny.make_model("llama", **WIDE)
    path = write_gguf(model, tmp_path / "model.gguf", kind)
    stored = read_gguf([path]).tensors["blk.1.attn_q.weight"]
    assert stored.type is kind
    assert stored.num_bytes < stored.shape[0] * stored.shape[1] * 4
    assert max_error(model, path, load_model) <= TOLERANCE


def test_a_split_file_is_read_as_one(tmp_path, load_model):
    model = tiny.make_model("llama")
    path = write_gguf(model, tmp_path / "tiny-00001-of-00003.gguf", Type.Q8_0, num_files=3)
    assert len(list(tmp_path.iterdir())) == 3
    assert max_error(model, path, load_model) <= TOLERANCE


def test_a_query_of_the_wrong_shape_is_a_load_error(tmp_path, load_model, monkeypatch):
    monkeypatch.setattr(gguf_files, "_permute", lambda rows, num_heads: rows[:-1])
    path = write_gguf(tiny.make_model("llama"), tmp_path / "model.gguf", Type.F32)
    with pytest.raises(LoadError, match=r"q_proj.weight has the shape"):
        load_model(path)
