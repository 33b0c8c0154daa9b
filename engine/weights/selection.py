"""Which files of a listing a model needs, and in which format they are. Knows names alone.

Torch-free.
"""

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from engine.errors import LoadError
from engine.weights.file_choice import candidates, choose

Kind = Literal["plain", "gguf", "ggml"]

INDEX_FILE = "model.safetensors.index.json"
_TOKENIZER_FILES = (
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "tokenizer.model", "tekken.json", "*.jinja", "chat_template.json"),
    "vocab.txt",
)
# any of these is a tokenizer
VOCABULARIES = (
    *(("tokenizer.json",), ("tokenizer.model",), ("tekken.json",)),
    *(("vocab.json", "merges.txt"), ("vocab.txt",)),
)
# How a model for vectors or scores goes on behind its states, and the folders of its modules.
_MODULES_FILE = "modules.json"
_POOLING_FILES = (_MODULES_FILE, "sentence_*_config.json", "config_sentence_transformers.json")
_MODULE = re.compile(r"[1-9]\d*_\w+/(config\.json|model\.safetensors)")
_PLAIN_FILES = (
    *("config.json", "generation_config.json", *_TOKENIZER_FILES, *_POOLING_FILES),
    *("model*.safetensors", INDEX_FILE),
)
_PICKLES = (".bin", ".pth", ".pt")
_SUFFIXES = {"gguf": ".gguf", "ggml": ".bin"}


class Selection(NamedTuple):
    """The files to have. `weights` are the packed ones; those of `plain` are in its index."""

    kind: Kind
    weights: tuple[str, ...]
    needed: tuple[str, ...]


def select(
    kind: Literal["auto"] | Kind, file: str | None, names: Collection[str], where: str
) -> Selection:
    """What a model needs of `names`, the paths of the files of `where`, parted by `/`.

    `file` is what `-f` says. Raises LoadError if it is not there or one of several is not named.
    """
    found = kind if kind != "auto" else _guess_kind(file, names)
    if found == "plain" and file is not None:
        raise LoadError(
            f"{file} is asked for, but {where} is to be read as plain safetensors, all files "
            "of it; leave -f out, or the kind."
        )
    if found == "plain":
        return Selection("plain", (), _choose_plain(names, where))
    weights = _choose_packed(found, file, names, where)
    return Selection(found, weights, weights)


def _choose_packed(
    kind: Kind, file: str | None, names: Iterable[str], where: str
) -> tuple[str, ...]:
    if kind == "ggml":
        if file is not None and _is_pickle_name(file):
            raise LoadError(explain_pickle(f"{where}/{file}"))
        names = [name for name in names if not _is_pickle_name(name)]
    return choose(file, names, where, _SUFFIXES[kind])


def select_tokenizer(names: Collection[str], where: str) -> tuple[str, ...]:
    """The tokenizer's files among `names`. Raises LoadError if they hold no vocabulary."""
    chosen = _matching(names, _TOKENIZER_FILES)
    if not any(set(files) <= set(chosen) for files in VOCABULARIES):
        raise LoadError(
            f"{where} has no tokenizer.json (nor tokenizer.model, nor vocab.json with merges.txt); "
            "name a model that has one with --tok-model-id."
        )
    return chosen


def companions(names: Collection[str]) -> tuple[str, ...]:
    """What goes with a model wherever its weights go: its tokenizer, and how to generate."""
    return _matching(names, ("generation_config.json", *_TOKENIZER_FILES))


def explain_pickle(where: str) -> str:
    """Why there is no reading of these."""
    return (
        f"{where} has its weights in pickle files (.bin, .pth), which can run code when they are "
        "read; use a version of the model in safetensors format."
    )


def _guess_kind(file: str | None, names: Collection[str]) -> Kind:
    if file is not None:
        return "ggml" if file.strip().endswith(".bin") else "gguf"
    has_gguf = bool(candidates(names, ".gguf"))
    return "gguf" if has_gguf and not any(map(_is_plain_weight, names)) else "plain"


def _is_plain_weight(name: str) -> bool:
    return "/" not in name and name.endswith((".safetensors", *_PICKLES))


def _choose_plain(names: Collection[str], where: str) -> tuple[str, ...]:
    chosen = (*_matching(names, _PLAIN_FILES), *_modules(names))
    if "config.json" not in chosen:
        raise LoadError(f"{where} has no config.json; {_hint(names)}.")
    if INDEX_FILE in chosen or any(map(_is_plain_weight, chosen)):
        return chosen
    if any(name.endswith(_PICKLES) for name in names):
        raise LoadError(explain_pickle(where))
    raise LoadError(f"{where} has no model.safetensors and no {INDEX_FILE}; {_hint(names)}.")


def _modules(names: Collection[str]) -> tuple[str, ...]:
    """The files of the modules that modules.json lists, where there is one."""
    if _MODULES_FILE not in names:
        return ()
    return tuple(name for name in names if _MODULE.fullmatch(name))


def _matching(names: Iterable[str], patterns: Iterable[str]) -> tuple[str, ...]:
    """Those at the top that fit: folders hold copies in other formats (`original/`, `onnx/`)."""
    patterns = tuple(patterns)
    return tuple(
        name for name in names if "/" not in name and any(fnmatchcase(name, p) for p in patterns)
    )


def _hint(names: Iterable[str]) -> str:
    models = list(candidates(names, ".gguf"))
    if not models:
        return "give a model in safetensors or GGUF format"
    return f"to serve one of its GGUF files, name it with -f: {', '.join(models)}"


def _is_pickle_name(name: str) -> bool:
    return name.rpartition("/")[2].startswith(("pytorch_model", "training_args", "optimizer"))
