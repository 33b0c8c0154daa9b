"""Causal decoders for vectors and scores, against transformers on whole sequences."""

import json

import pytest
import torch
from gguf import GGMLQuantizationType as Type, PoolingType
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma3TextModel,
    LlamaForSequenceClassification,
    Qwen3ForSequenceClassification,
    Qwen3Model,
)

from engine.errors import LoadError
from tests.engine.models import tiny
from tests.engine.models.gguf_files import write_gguf
from tests.engine.models.tiny import randomise
from tests.engine.pooling import modules
from tests.engine.weights.tiny_tokenizer import write_tokenizer

TOLERANCE = 1e-5
FAMILIES = ("llama", "qwen3", "qwen3-window", "gemma2", "phi3-long", "mixtral", "phi")


@torch.no_grad()
def states(model, text):
    return model.base_model(torch.tensor([text]), use_cache=False).last_hidden_state[0].double()


def length_one(state):
    return state / state.norm()


def as_embedder(directory):
    modules.write_modules(directory, ["Transformer", "Pooling", "Normalize"])
    modules.write_pooling(directory, "lasttoken")
    return directory


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_tokens_state_is_transformers(name, load, vectors, tmp_path):
    model = tiny.make_model(name)
    engine = load(as_embedder(tiny.save_checkpoint(name, tmp_path)))
    assert engine.info.task == "embed"
    for text, vector in zip(tiny.prompts(), vectors(engine, tiny.prompts()), strict=True):
        assert (vector - length_one(states(model, text)[-1])).abs().max() <= TOLERANCE


def test_without_modules_an_asked_for_vector_is_the_last_state(load, vectors, tmp_path):
    model = tiny.make_model("qwen2")
    engine = load(tiny.save_checkpoint("qwen2", tmp_path), task="embed")
    (vector,) = vectors(engine, [tiny.prompts()[2]])
    assert (vector - length_one(states(model, tiny.prompts()[2])[-1])).abs().max() <= TOLERANCE


def test_a_decoder_may_be_pooled_by_its_mean(load, vectors, tmp_path):
    model = tiny.make_model("llama")
    directory = as_embedder(tiny.save_checkpoint("llama", tmp_path))
    modules.write_pooling(directory, "mean_tokens")
    for text, vector in zip(tiny.prompts(), vectors(load(directory), tiny.prompts()), strict=True):
        assert (vector - length_one(states(model, text).mean(0))).abs().max() <= TOLERANCE


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_a_checkpoint_without_a_head_is_an_embedding_model(is_tied, load, vectors, tmp_path):
    (config_class, _), special = tiny.RECIPES["qwen3"]
    config = config_class(**{**tiny._SHAPE, **special, "tie_word_embeddings": is_tied})
    model = Qwen3Model(config).float().eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    assert "embed_tokens.weight" in load_file(tmp_path / "model.safetensors")
    engine = load(tmp_path)
    assert engine.info.task == "embed"
    (vector,) = vectors(engine, [tiny.prompts()[2]])
    assert (vector - length_one(states(model, tiny.prompts()[2])[-1])).abs().max() <= TOLERANCE


def test_qwen3_embeddings_files_name_a_language_model_that_they_have_no_head_of(
    load, vectors, tmp_path
):
    """Qwen3-Embedding: config.json says Qwen3ForCausalLM, tensors are a Qwen3Model's."""
    model = tiny.make_model("qwen3")
    path = as_embedder(tiny.save_checkpoint("qwen3", tmp_path)) / "model.safetensors"
    bare = {
        name.removeprefix("model."): tensor
        for name, tensor in load_file(path).items()
        if not name.startswith("lm_head.")
    }
    save_file(bare, path)
    (vector,) = vectors(load(tmp_path), [tiny.prompts()[3]])
    assert (vector - length_one(states(model, tiny.prompts()[3])[-1])).abs().max() <= TOLERANCE


def test_a_gguf_file_that_is_asked_for_vectors_gives_its_last_states(load, vectors, tmp_path):
    model = tiny.make_model("qwen3")
    path = write_gguf(model, tmp_path / "tiny.gguf", Type.F32)
    engine = load(path, task="embed")
    for text, vector in zip(tiny.prompts(), vectors(engine, tiny.prompts()), strict=True):
        assert (vector - length_one(states(model, text)[-1])).abs().max() <= TOLERANCE


def test_a_gguf_file_says_how_it_is_pooled(load, vectors, tmp_path):
    model = tiny.make_model("qwen3")
    path = write_gguf(
        model,
        tmp_path / "tiny.gguf",
        Type.F32,
        describe=lambda writer: writer.add_pooling_type(PoolingType.MEAN),
    )
    engine = load(path)
    assert engine.info.task == "embed"
    for text, vector in zip(tiny.prompts(), vectors(engine, tiny.prompts()), strict=True):
        assert (vector - length_one(states(model, text).mean(0))).abs().max() <= TOLERANCE


CLASSIFIERS = {"qwen3": Qwen3ForSequenceClassification, "llama": LlamaForSequenceClassification}


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("name", CLASSIFIERS)
@torch.no_grad()
def test_a_decoders_classifier_scores_the_last_state(name, num_labels, load, vectors, tmp_path):
    (config_class, _), special = tiny.RECIPES[name]
    config = config_class(**{**tiny._SHAPE, **special, "num_labels": num_labels})
    model = CLASSIFIERS[name](config).float().eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    engine = load(tmp_path)
    assert (engine.info.task, engine.info.vector_size) == ("score", num_labels)
    for text, scores in zip(tiny.prompts(), vectors(engine, tiny.prompts()), strict=True):
        logits = model(torch.tensor([text]), use_cache=False).logits[0].double()
        exact = logits.sigmoid() if num_labels == 1 else logits.softmax(-1)
        assert (scores - exact).abs().max() <= TOLERANCE


def reranker(directory, name="qwen3"):
    """A language model whose tokenizer has the words yes and no."""
    tiny.save_checkpoint(name, directory)
    tokenizer = write_tokenizer(directory)
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.save(str(directory / "tokenizer.json"))
    return tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")


def test_qwen3_reranker_scores_how_likely_yes_is_against_no(load, vectors, tmp_path):
    yes, no = reranker(tmp_path)
    engine = load(tmp_path, task="score")
    assert engine.info.vector_size == 1
    model = tiny.make_model("qwen3")
    for text, score in zip(tiny.prompts(), vectors(engine, tiny.prompts()), strict=True):
        logits = tiny.reference_logits(model, text)[-1].double()
        exact = logits[[no, yes]].softmax(-1)[1]
        assert (score[0] - exact).abs() <= TOLERANCE


@pytest.mark.parametrize("false_id", [17, None], ids=["two-tokens", "one-token"])
def test_a_module_may_name_the_tokens_that_make_a_score(false_id, load, vectors, tmp_path):
    tiny.save_checkpoint("llama", tmp_path)
    listed = [
        {"type": "sentence_transformers.base.modules.transformer.Transformer", "path": ""},
        {
            "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
            "path": "1_LogitScore",
        },
    ]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    tokens = {"true_token_id": 9, "false_token_id": false_id}
    modules.write_config(tmp_path, "1_LogitScore", tokens)
    engine = load(tmp_path)
    assert engine.info.task == "score"
    (score,) = vectors(engine, [tiny.prompts()[1]])
    logits = tiny.reference_logits(tiny.make_model("llama"), tiny.prompts()[1])[-1].double()
    exact = (logits[9] - (0.0 if false_id is None else logits[false_id])).sigmoid()
    assert (score[0] - exact).abs() <= TOLERANCE


def test_isq_makes_a_decoder_smaller_and_moves_its_vectors_little(load, vectors, tmp_path):
    directory = as_embedder(tiny.save_checkpoint("llama", tmp_path))
    exact, packed = (vectors(load(directory, isq=isq), tiny.prompts()) for isq in ("", "Q8_0"))
    for one, other in zip(exact, packed, strict=True):
        assert 0 < (one - other).abs().max() < 0.02


def test_a_decoder_that_looks_both_ways_does_so_with_packed_weights(load, vectors, tmp_path):
    tiny.make_model("llama", is_causal=False).save_pretrained(tmp_path)
    directory = as_embedder(tmp_path)
    exact, packed = (vectors(load(directory, isq=isq), tiny.prompts()) for isq in ("", "Q8_0"))
    for one, other in zip(exact, packed, strict=True):
        assert 0 < (one - other).abs().max() < 0.02


@pytest.mark.parametrize("name", ["llama", "qwen2-window", "qwen3"])
def test_a_decoder_may_look_both_ways(name, load, vectors, tmp_path):
    model = tiny.make_model(name, is_causal=False)
    model.save_pretrained(tmp_path)
    engine = load(as_embedder(tmp_path))
    for text, vector in zip(tiny.prompts(), vectors(engine, tiny.prompts()), strict=True):
        assert (vector - length_one(states(model, text)[-1])).abs().max() <= TOLERANCE


def test_embedding_gemma_looks_both_ways_and_has_two_dense_layers(load, vectors, tmp_path):
    (config_class, _), special = tiny.RECIPES["gemma3"]
    values = {**tiny._SHAPE, **special, "sliding_window": 8, "use_bidirectional_attention": True}
    model = Gemma3TextModel(config_class(**values)).float().eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    modules.write_modules(tmp_path, ["Transformer", "Pooling", "Dense", "Dense", "Normalize"])
    modules.write_pooling(tmp_path, "mean_tokens")
    wide, narrow = modules.random_matrix(160, 64), modules.random_matrix(48, 160)
    modules.write_dense(tmp_path, "2_Dense", wide, None)
    modules.write_dense(tmp_path, "3_Dense", narrow, None)
    engine = load(tmp_path)
    assert (engine.info.task, engine.info.vector_size) == ("embed", 48)
    for text, vector in zip(tiny.prompts(), vectors(engine, tiny.prompts()), strict=True):
        inner = torch.tanh(wide.double() @ states(model, text).mean(0))
        exact = length_one(torch.tanh(narrow.double() @ inner))
        assert (vector - exact).abs().max() <= TOLERANCE


def test_a_decoder_that_looks_both_ways_makes_no_text(load, tmp_path):
    tiny.make_model("llama", is_causal=False).save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="serve it with --task embed"):
        load(tmp_path)


def test_a_soft_cap_both_ways_is_refused(load, tmp_path):
    tiny.make_model("gemma2", is_causal=False).save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="soft cap"):
        load(tmp_path, task="embed")


def test_a_reranker_without_the_words_is_refused(load, tmp_path):
    tiny.save_checkpoint("qwen3", tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(LoadError, match="no tokens yes and no"):
        load(tmp_path, task="score")
