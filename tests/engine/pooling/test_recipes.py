"""sentence-transformers' files: every pooling by its formula in float64, dense layers, lengths."""

import json

import pytest
import torch

from engine.errors import LoadError, PromptTooLong
from tests.engine.pooling import modules, tiny_encoders as tiny

TOLERANCE = 1e-5


def weighted_mean(states):
    weights = torch.arange(1, len(states) + 1).double()[:, None]
    return (states * weights).sum(0) / weights.sum()


FORMULAS = {
    "cls_token": lambda states: states[0],
    "mean_tokens": lambda states: states.mean(0),
    "max_tokens": lambda states: states.max(0).values,
    "mean_sqrt_len_tokens": lambda states: states.sum(0) / len(states) ** 0.5,
    "weightedmean_tokens": weighted_mean,
    "lasttoken": lambda states: states[-1],
}


@pytest.fixture(scope="module")
def model():
    return tiny.make(tiny.EMBEDDERS["bert"])


@pytest.fixture
def directory(model, tmp_path):
    return tiny.save(model, tmp_path)


def states(model, text):
    return tiny.states(model, text).double()


def check(model, made, formula):
    for text, vector in zip(tiny.texts(), made, strict=True):
        exact = formula(states(model, text))
        assert (vector - exact).abs().max() <= TOLERANCE * exact.abs().max()


@pytest.mark.parametrize("mode", FORMULAS)
def test_a_pooling_is_its_formula_and_nothing_is_normalised_unasked(
    mode, model, directory, load, vectors
):
    modules.write_modules(directory, ["Transformer", "Pooling"])
    modules.write_pooling(directory, mode)
    check(model, vectors(load(directory), tiny.texts()), FORMULAS[mode])


def test_a_normalised_vector_has_length_one(model, directory, load, vectors):
    modules.write_modules(directory, ["Transformer", "Pooling", "Normalize"])
    modules.write_pooling(directory, "mean_tokens")
    check(
        model,
        vectors(load(directory), tiny.texts()),
        lambda states: states.mean(0) / states.mean(0).norm(),
    )


def test_two_poolings_are_joined_in_the_order_of_sentence_transformers(
    model, directory, load, vectors
):
    modules.write_modules(directory, ["Transformer", "Pooling"])
    modules.write_pooling(directory, "mean_tokens", "cls_token")
    engine = load(directory)
    assert engine.info.vector_size == 128
    check(
        model,
        vectors(engine, tiny.texts()),
        lambda states: torch.cat([states[0], states.mean(0)]),
    )


def test_the_newer_form_names_classes_and_pooling_otherwise(model, directory, load, vectors):
    modules.write_modules(directory, ["Transformer", "Pooling", "Normalize"], is_new=True)
    modules.write_config(directory, "1_Pooling", {"pooling_mode": "lasttoken"})
    check(
        model,
        vectors(load(directory), tiny.texts()),
        lambda states: states[-1] / states[-1].norm(),
    )


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no-bias"])
def test_a_dense_layer_follows_the_pooling(has_bias, model, directory, load, vectors):
    weight, bias = modules.random_matrix(24, 64), modules.random_matrix(24) if has_bias else None
    modules.write_modules(directory, ["Transformer", "Pooling", "Dense"])
    modules.write_pooling(directory, "mean_tokens")
    modules.write_dense(directory, "2_Dense", weight, bias)
    engine = load(directory)
    assert engine.info.vector_size == 24
    shift = 0.0 if bias is None else bias.double()
    check(
        model,
        vectors(engine, tiny.texts()),
        lambda states: torch.tanh(weight.double() @ states.mean(0) + shift),
    )


def test_the_makers_longest_text_is_the_context(directory, load, vectors):
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 40}))
    engine = load(directory)
    assert engine.info.context_length == 40
    with pytest.raises(PromptTooLong, match="40 tokens"):
        vectors(engine, [[5] * 41])


def test_a_longer_length_than_the_positions_is_no_length(directory, load):
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512}))
    assert load(directory).info.context_length == tiny.MAX_POSITIONS


def test_what_makes_other_vectors_gives_another_fingerprint(directory, load):
    names = [load(directory).info.fingerprint]
    modules.write_modules(directory, ["Transformer", "Pooling", "Normalize"])
    modules.write_pooling(directory, "cls_token")
    names.append(load(directory).info.fingerprint)  # what the first one does too
    modules.write_pooling(directory, "mean_tokens")
    names.append(load(directory).info.fingerprint)
    modules.write_modules(directory, ["Transformer", "Pooling", "Dense"])
    for seed in (1.0, 2.0):
        modules.write_dense(directory, "2_Dense", seed * modules.random_matrix(24, 64), None)
        names.append(load(directory).info.fingerprint)
    assert names[0] == names[1]
    assert len(set(names)) == 4


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        (["Transformer", "Pooling", "LSTM"], "LSTM, which is not supported"),
        (["Transformer", "Normalize", "Pooling"], "in this order"),
        (["Transformer", "Pooling", "Pooling"], "in this order"),
        (["Pooling"], "must begin with a Transformer"),
    ],
    ids=["lstm", "order", "twice", "no-transformer"],
)
def test_modules_that_are_not_supported_are_refused(kinds, reason, directory, load):
    modules.write_modules(directory, kinds)
    modules.write_pooling(directory, "mean_tokens")
    with pytest.raises(LoadError, match=reason):
        load(directory)


def test_a_module_of_someone_elses_is_refused(directory, load):
    listed = [{"type": "custom_code.Transformer", "path": ""}]
    (directory / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(LoadError, match=r"custom_code\.Transformer"):
        load(directory)


@pytest.mark.parametrize("folder", ["../1_Pooling", "/tmp/1_Pooling"])
def test_a_folder_outside_of_the_directory_is_refused(folder, directory, load):
    listed = [
        {"type": f"{modules.OLD}Transformer", "path": ""},
        {"type": f"{modules.OLD}Pooling", "path": folder},
    ]
    (directory / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(LoadError, match="outside of its directory"):
        load(directory)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"pooling_mode_mean_tokens": False}, "names no pooling"),
        ({"pooling_mode_strange": True}, "not supported"),
        ({"pooling_mode": "attention"}, "not supported"),
    ],
    ids=["none", "unknown-switch", "unknown-mode"],
)
def test_a_pooling_that_is_not_known_is_refused(config, reason, directory, load):
    modules.write_modules(directory, ["Transformer", "Pooling"])
    modules.write_config(directory, "1_Pooling", config)
    with pytest.raises(LoadError, match=reason):
        load(directory)


def test_a_dense_layer_of_another_size_is_refused(directory, load):
    modules.write_modules(directory, ["Transformer", "Pooling", "Dense"])
    modules.write_pooling(directory, "mean_tokens", "cls_token")
    modules.write_dense(directory, "2_Dense", modules.random_matrix(24, 64), None)
    with pytest.raises(LoadError, match="takes 64 numbers, but is given 128"):
        load(directory)


def test_a_dense_layer_in_a_pickle_is_refused(directory, load):
    modules.write_modules(directory, ["Transformer", "Pooling", "Dense"])
    modules.write_pooling(directory, "mean_tokens")
    modules.write_dense(directory, "2_Dense", modules.random_matrix(24, 64), None)
    (directory / "2_Dense" / "model.safetensors").rename(directory / "2_Dense/pytorch_model.bin")
    with pytest.raises(LoadError, match="can run code"):
        load(directory)
