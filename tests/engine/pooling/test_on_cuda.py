"""Vectors and scores on a pretended CUDA device: those of the CPU, and one wait for each step."""

import pytest
from gguf import GGMLQuantizationType as Type

from kernels import interpreter
from tests.engine.models import tiny
from tests.engine.models.gguf_files import write_gguf
from tests.engine.models.test_gguf_families import WIDE
from tests.engine.pooling import modules, tiny_encoders
from tests.engine.pooling.test_decoders import as_embedder, reranker
from tests.engine.pooling.test_recipes import FORMULAS
from tests.engine.twins import twins_on_cuda

pytestmark = pytest.mark.skipif(
    not interpreter.is_interpreting(), reason="kernels of this process compile"
)
TOLERANCE = 1e-5


@pytest.fixture
def check(load, vectors):
    """Loads a model on both devices; the kernels that ran."""

    def on_both(directory, texts, types=(), **settings):
        expected = vectors(load(directory, **settings), texts, types)
        with twins_on_cuda() as cuda:
            engine = load(directory, **settings, device="cuda:0")
            cuda.waits.clear()
            made = vectors(engine, texts, types)
        assert cuda.waits == {"to the host": 1}
        for one, other in zip(made, expected, strict=True):
            assert (one - other).abs().max() <= TOLERANCE
        return cuda.launches

    return on_both


@pytest.mark.parametrize("name", tiny_encoders.EMBEDDERS)
def test_an_encoder_has_the_vectors_of_the_cpu(name, check, tmp_path):
    directory = tiny_encoders.save(tiny_encoders.make(tiny_encoders.EMBEDDERS[name]), tmp_path)
    assert check(directory, tiny_encoders.texts())["_varlen_attention_kernel"]


@pytest.mark.parametrize("name", tiny_encoders.SCORERS)
def test_a_classifier_has_the_scores_of_the_cpu(name, check, tmp_path):
    model = tiny_encoders.make(tiny_encoders.SCORERS[name])
    types = [[0] * (len(text) // 2) + [1] * (-(-len(text) // 2)) for text in tiny_encoders.texts()]
    has_types = name.startswith("bert")
    check(tiny_encoders.save(model, tmp_path), tiny_encoders.texts(), types if has_types else ())


@pytest.mark.parametrize("mode", FORMULAS)
def test_states_are_pooled_there(mode, check, tmp_path):
    model = tiny_encoders.make(tiny_encoders.EMBEDDERS["bert"])
    directory = tiny_encoders.save(model, tmp_path)
    modules.write_modules(directory, ["Transformer", "Pooling", "Dense", "Normalize"])
    modules.write_pooling(directory, mode)
    bias = modules.random_matrix(1, 48)[0]
    modules.write_dense(directory, "2_Dense", modules.random_matrix(48, 64), bias)
    check(directory, tiny_encoders.texts())


@pytest.mark.parametrize("is_causal", [True, False], ids=["causal", "both-ways"])
@pytest.mark.parametrize("name", ["llama", "qwen2-window", "qwen3", "phi3-long"])
def test_a_decoder_has_the_vectors_of_the_cpu(name, is_causal, check, tmp_path):
    tiny.make_model(name, is_causal=is_causal).save_pretrained(tmp_path)
    attention = "_paged_attention_kernel" if is_causal else "_varlen_attention_kernel"
    launches = check(as_embedder(tmp_path), tiny.prompts())
    assert launches[attention]
    check(as_embedder(tmp_path), [[5], [6], [7]])  # a token each: attention takes another way


def test_a_decoder_in_packed_weights_has_the_vectors_of_the_cpu(check, tmp_path):
    path = write_gguf(tiny.make_model("qwen3", **WIDE), tmp_path / "tiny.gguf", Type.Q4_K)
    launches = check(path, tiny.prompts(), task="embed", cpu_activations="float")
    assert launches["_packed_rows_kernel"]


def test_a_reranker_has_the_scores_of_the_cpu(check, tmp_path):
    reranker(tmp_path)
    check(tmp_path, tiny.prompts(), task="score")


@pytest.mark.parametrize("name", ["bert", "modernbert", "mpnet"])
def test_an_encoder_runs_in_half_precision(name, load, vectors, tmp_path):
    directory = tiny_encoders.save(tiny_encoders.make(tiny_encoders.EMBEDDERS[name]), tmp_path)
    exact = vectors(load(directory), tiny_encoders.texts())
    with twins_on_cuda():
        engine = load(directory, device="cuda:0", dtype="float16")
        rounded = vectors(engine, tiny_encoders.texts())
    for one, other in zip(exact, rounded, strict=True):
        assert 0 < (one - other).abs().max() < 0.01
