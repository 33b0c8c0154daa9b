"""Classifiers as scorers: against transformers' logits, and the activation that the files name."""

import json

import pytest
import torch

from engine.errors import LoadError
from tests.engine.pooling import tiny_encoders as tiny

TOLERANCE = 1e-5


def edit(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return directory


@pytest.mark.parametrize("name", tiny.SCORERS)
def test_scores_are_transformers_logits_scaled(name, load, vectors, tmp_path):
    model = tiny.make(tiny.SCORERS[name])
    engine = load(tiny.save(model, tmp_path))
    num_labels = model.config.num_labels
    assert (engine.info.task, engine.info.vector_size) == ("score", num_labels)
    for text, scores in zip(tiny.texts(), vectors(engine, tiny.texts()), strict=True):
        logits = tiny.logits(model, text).double()
        exact = logits.sigmoid() if num_labels == 1 else logits.softmax(-1)
        assert (scores - exact).abs().max() <= TOLERANCE


def test_a_pair_is_scored_with_its_token_types(load, vectors, tmp_path):
    model = tiny.make(tiny.SCORERS["bert"])
    text, types = tiny.texts()[2], [0] * 12 + [1] * 21
    (score,) = vectors(load(tiny.save(model, tmp_path)), [text], [types])
    exact = tiny.logits(model, text, token_type_ids=torch.tensor([types])).double().sigmoid()
    assert (score - exact).abs().max() <= TOLERANCE


IDENTITY = "torch.nn.modules.linear.Identity"
ACTIVATIONS = {
    "in-config": ({"sentence_transformers": {"activation_fn": IDENTITY}}, "bert", None),
    "older-key": ({"sbert_ce_default_activation_function": IDENTITY}, "bert", None),
    "multi-label": ({"problem_type": "multi_label_classification"}, "bert-3", torch.sigmoid),
    "regression": ({"problem_type": "regression"}, "bert-3", None),
    "one-of-regression": ({"problem_type": "regression"}, "bert", torch.sigmoid),
}


@pytest.mark.parametrize(("change", "name", "scale"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_the_files_say_how_scores_are_scaled(change, name, scale, load, vectors, tmp_path):
    model = tiny.make(tiny.SCORERS[name])
    (scores,) = vectors(load(edit(tiny.save(model, tmp_path), **change)), [tiny.texts()[1]])
    logits = tiny.logits(model, tiny.texts()[1]).double()
    exact = logits if scale is None else scale(logits)
    assert (scores - exact).abs().max() <= TOLERANCE


def test_sentence_transformers_own_file_goes_before_config_json(load, vectors, tmp_path):
    model = tiny.make(tiny.SCORERS["bert"])
    settings = {"activation_fn": IDENTITY, "model_type": "CrossEncoder"}
    path = tiny.save(model, tmp_path) / "config_sentence_transformers.json"
    path.write_text(json.dumps(settings))
    (score,) = vectors(load(tmp_path), [tiny.texts()[1]])
    assert (score - tiny.logits(model, tiny.texts()[1])).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        ({"sbert_ce_default_activation_function": "my.Act"}, "bert", r"my\.Act is not supported"),
        ({"problem_type": "ranking"}, "bert-3", "problem_type ranking"),
        ({"classifier_pooling": "max"}, "modernbert", "classifier_pooling must be"),
        ({"classifier_activation": "relu6"}, "modernbert", "classifier_activation 'relu6'"),
    ],
    ids=["activation", "problem", "pooling", "classifier-activation"],
)
def test_what_is_not_known_of_a_classifier_is_refused(change, name, reason, load, tmp_path):
    directory = edit(tiny.save(tiny.make(tiny.SCORERS[name]), tmp_path), **change)
    with pytest.raises(LoadError, match=reason):
        load(directory)


def test_a_scorer_that_is_asked_for_vectors_gives_its_states(load, vectors, tmp_path):
    model = tiny.make(tiny.SCORERS["bert"])
    engine = load(tiny.save(model, tmp_path), task="embed")
    assert (engine.info.task, engine.info.vector_size) == ("embed", 64)
    (vector,) = vectors(engine, [tiny.texts()[2]])
    state = tiny.states(model, tiny.texts()[2])[0].double()
    assert (vector - state / state.norm()).abs().max() <= TOLERANCE
