"""How a classifier's scores are scaled, as config.json says. Torch-free."""

from pathlib import Path
from typing import Any

import msgspec

from engine.errors import LoadError
from engine.json_file import read_json, read_json_if_there
from engine.pooling.recipe import Pooling, Scale, parse_scale


class ScoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What sentence-transformers' CrossEncoder and transformers' classifiers read."""

    sentence_transformers: dict[str, Any] | None = None
    sbert_ce_default_activation_function: str | None = None
    problem_type: str | None = None
    classifier_pooling: str = "cls"  # of ModernBERT
    classifier_activation: str = "gelu"  # of ModernBERT


_BY_PROBLEM: dict[str | None, Scale] = {
    None: "softmax",
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "identity",
}


class _CrossEncoder(msgspec.Struct):
    activation_fn: str | None = None


def read_score_settings(directory: Path) -> ScoreSettings:
    """The keys of config.json, and what sentence-transformers' own file says of the activation.

    Raises LoadError for one that has a wrong type.
    """
    settings = read_json(directory / "config.json", ScoreSettings)
    path = directory / "config_sentence_transformers.json"
    stated = read_json_if_there(path, _CrossEncoder)
    if stated is None or stated.activation_fn is None:
        return settings
    named = {"activation_fn": stated.activation_fn}
    return msgspec.structs.replace(settings, sentence_transformers=named)


def scale_of(settings: ScoreSettings, num_labels: int, path: Path) -> Scale:
    """The activation that the file names; else sigmoid of one score, or by the kind of problem.

    A single score is a sigmoid's whatever the problem, as sentence-transformers has it.
    """
    named = (settings.sentence_transformers or {}).get("activation_fn")
    named = named or settings.sbert_ce_default_activation_function
    if named is not None:
        return parse_scale(str(named), path)
    if num_labels == 1:
        return "sigmoid"
    if settings.problem_type not in _BY_PROBLEM:
        raise LoadError(
            f"{path}: the problem_type {settings.problem_type} is not known; known are "
            f"{', '.join(name for name in _BY_PROBLEM if name)}."
        )
    return _BY_PROBLEM[settings.problem_type]


def pooling_of(settings: ScoreSettings, path: Path) -> Pooling:
    """Which states an encoder's classifier reads: the first token's, or their mean (ModernBERT)."""
    match settings.classifier_pooling:
        case "cls":
            return "cls"
        case "mean":
            return "mean"
    raise LoadError(
        f"{path}: classifier_pooling must be cls or mean, not {settings.classifier_pooling}."
    )
