"""Reads how a model's makers want it sampled, and which ids end its answers. Knows no tokenizer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from engine.errors import LoadError
from engine.json_file import read_json_if_there

T = TypeVar("T")

_GGUF_KEYS = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}


_Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class GenerationDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """What a request that is silent on a value gets; None: the makers are silent too.

    `suppress_tokens` are never sampled, whatever the request. `max_new_tokens` and `max_length` are
    not read: a chat that names no limit has what the context holds, as at OpenAI, where the makers'
    values (20, 256, 2048) would cut its answer short without a word.
    """

    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_k: int | None = None
    top_p: _Fraction | None = None
    min_p: _Fraction | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0)] | None = None
    suppress_tokens: list[int] | None = None

    def never_ids(self, vocab_size: int) -> tuple[int, ...]:
        """`suppress_tokens`, without those that a model of so many tokens cannot make."""
        return tuple(id_ for id_ in self.suppress_tokens or () if 0 <= id_ < vocab_size)


class _GenerationJson(GenerationDefaults, frozen=True):
    do_sample: bool | None = None
    eos_token_id: int | list[int] | None = None


class GenerationConfig(msgspec.Struct, frozen=True, kw_only=True):
    """generation_config.json, or what stands in for it."""

    defaults: GenerationDefaults = GenerationDefaults()
    eos_ids: frozenset[int] = frozenset()


def read_generation_config(
    directories: Sequence[Path], metadata: Mapping[str, Any]
) -> GenerationConfig:
    """The first generation_config.json; else the end ids of config.json and a GGUF file's own keys.

    Raises LoadError for a file that is damaged.
    """
    document = _first(directories, "generation_config.json", _GenerationJson)
    if document is not None:
        return GenerationConfig(defaults=_defaults(document), eos_ids=_eos_ids(document))
    model = _first(directories, "config.json", _EosJson)
    return GenerationConfig(
        defaults=_gguf_defaults(metadata),
        eos_ids=frozenset() if model is None else _eos_ids(model),
    )


def _first(directories: Sequence[Path], name: str, kind: type[T]) -> T | None:
    found = (read_json_if_there(directory / name, kind) for directory in directories)
    return next((document for document in found if document is not None), None)


class _EosJson(msgspec.Struct):
    eos_token_id: int | list[int] | None = None


def _gguf_defaults(metadata: Mapping[str, Any]) -> GenerationDefaults:
    values = {name: metadata.get(f"general.sampling.{key}") for name, key in _GGUF_KEYS.items()}
    try:
        return msgspec.convert(values, GenerationDefaults)
    except msgspec.ValidationError as error:
        raise LoadError(
            f"the GGUF file's general.sampling keys cannot be used: {error}; convert it again."
        ) from error


def _defaults(document: _GenerationJson) -> GenerationDefaults:
    """`do_sample: false` is how Hugging Face writes greedy decoding."""
    return GenerationDefaults(
        temperature=0.0 if document.do_sample is False else document.temperature,
        top_k=document.top_k,
        top_p=document.top_p,
        min_p=document.min_p,
        repetition_penalty=document.repetition_penalty,
        suppress_tokens=document.suppress_tokens,
    )


def _eos_ids(document: _GenerationJson | _EosJson) -> frozenset[int]:
    value = document.eos_token_id
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)
