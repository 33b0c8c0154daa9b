"""What a model's files are for: text, vectors or scores. Torch-free; reads no weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from engine.config import Task
from engine.encoders.families import CLASSIFIER, ENCODERS
from engine.errors import LoadError
from engine.json_file import read_json, read_json_if_there
from engine.models.registry import HEADLESS, MODELS, decoder_of
from engine.weights.files import ModelFiles
from engine.weights.gguf_metadata import read_gguf

MODULES_FILE = "modules.json"  # sentence-transformers' list of what makes a vector
# Rerankers of this shape have the head of a language model: they say "yes" or "no" to a pair.
_SCORES_BY_TOKEN = ("Qwen3ForCausalLM",)


# llama.cpp's numbers; 0 is none, and 4 a reranker's, whose head is not supported
GgufPooling = Literal["mean", "cls", "lasttoken"]
_GGUF_POOLINGS: dict[Any, GgufPooling] = {1: "mean", 2: "cls", 3: "lasttoken"}


class Module(msgspec.Struct):
    """An entry of modules.json: a class, and the folder of its files."""

    type: str
    path: str = ""

    @property
    def kind(self) -> str:
        """The name of the class."""
        return self.type.rpartition(".")[2]


class _Config(msgspec.Struct):
    architectures: Annotated[list[str], msgspec.Meta(min_length=1)]


def read_architecture(files: ModelFiles) -> str:
    """The architecture that config.json names. Raises LoadError if it names none."""
    return read_json(files.directory / "config.json", _Config).architectures[0]


def read_modules(files: ModelFiles) -> list[Module]:
    """What modules.json lists, nothing without one. Raises LoadError for a damaged one."""
    if files.kind != "plain":
        return []
    path = files.directory / MODULES_FILE
    modules = read_json_if_there(path, list[Module]) or []
    for module in modules:
        if Path(module.path).is_absolute() or ".." in Path(module.path).parts:
            raise LoadError(f"{path} names {module.path}, outside of its directory.")
    return modules


def scores_by_token(files: ModelFiles) -> Module | None:
    """sentence-transformers' module that makes a score of the likelihood of tokens, if any."""
    return next((module for module in read_modules(files) if module.kind == "LogitScore"), None)


def gguf_pooling(files: ModelFiles) -> GgufPooling | None:
    """How llama.cpp pools the states of a GGUF file that is for vectors; None if it is not."""
    if files.kind != "gguf":
        return None
    metadata = read_gguf(files.weights).metadata
    return _GGUF_POOLINGS.get(metadata.get(f"{metadata.get('general.architecture')}.pooling_type"))


def find_task(files: ModelFiles, asked: Literal["auto"] | Task) -> Task:
    """The task that is asked for, or the one that the files are for.

    Raises LoadError if they are for another.
    """
    possible = _possible(files)
    if asked == "auto":
        return _by_files(files, possible)
    if asked not in possible:
        raise LoadError(
            f"{files.name} cannot be served for the task {asked}, only for "
            f"{' or '.join(possible)}; leave --task out, or serve another model."
        )
    return asked


def _possible(files: ModelFiles) -> Sequence[Task]:
    """The tasks of the files, the first one what they are for if nothing else says so."""
    if files.kind != "plain":
        return ("generate", "embed")
    architecture = read_architecture(files)
    if architecture.endswith(CLASSIFIER) and _is_known(architecture):
        return ("score", "embed")
    if architecture in ENCODERS:
        return ("embed",)
    if architecture.endswith(HEADLESS) and _is_known(architecture):
        return ("embed",)
    if architecture in _SCORES_BY_TOKEN or scores_by_token(files):
        return ("generate", "embed", "score")
    return ("generate", "embed")


def _is_known(architecture: str) -> bool:
    return architecture in ENCODERS or decoder_of(architecture) in MODELS


def _by_files(files: ModelFiles, possible: Sequence[Task]) -> Task:
    """A list of modules is there for vectors, unless one of them makes a score."""
    if gguf_pooling(files) is not None:
        return "embed"
    if possible[0] != "generate" or not (modules := read_modules(files)):
        return possible[0]
    return "score" if any(module.kind == "LogitScore" for module in modules) else "embed"
