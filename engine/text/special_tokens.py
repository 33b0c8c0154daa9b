"""Which tokens a Hugging Face directory names, adds or marks as special. Knows no vocabulary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import AddedToken

from engine.errors import LoadError
from engine.json_file import read_json_if_there

NAMES = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "pad", "sep", "cls", "mask"))


class _Lists(msgspec.Struct):
    """The settings that hold tokens, of which files have both kinds."""

    added_tokens_decoder: dict[str, Any] | None = None
    additional_special_tokens: list[Any] | dict[str, Any] | None = None
    extra_special_tokens: list[Any] | dict[str, Any] | None = None


def read_settings(directory: Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json. Raises LoadError for a damaged one."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        settings |= read_json_if_there(directory / name, dict[str, Any]) or {}
        read_json_if_there(directory / name, _Lists)
    return settings


def named_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token`, … and their texts."""
    tokens = {name: _content(settings.get(name)) for name in NAMES}
    return {name: token for name, token in tokens.items() if token is not None}


def special_texts(settings: Mapping[str, Any]) -> set[str]:
    """All tokens that are never part of an answer's text."""
    added = settings.get("added_tokens_decoder") or {}
    tokens = [token for token in added.values() if isinstance(token, dict) and token.get("special")]
    extra = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
    tokens += extra.values() if isinstance(extra, dict) else extra
    others = {content for token in tokens if (content := _content(token)) is not None}
    return {*named_tokens(settings).values(), *others}


def added_tokens(directory: Path, settings: Mapping[str, Any]) -> dict[int, AddedToken]:
    """By id, the tokens of added_tokens.json and of the config's `added_tokens_decoder`.

    They are looked for in the text as it is written, before any normalization. Raises LoadError
    for an id that is none.
    """
    special = special_texts(settings)
    plain = read_json_if_there(directory / "added_tokens.json", dict[str, int]) or {}
    found = {
        id_: AddedToken(text, normalized=False, special=text in special)
        for text, id_ in plain.items()
    }
    for key, value in (settings.get("added_tokens_decoder") or {}).items():
        if not str(key).isdecimal() or not isinstance(value, dict):
            raise LoadError(
                f"{directory}/tokenizer_config.json has added_tokens_decoder with {key!r}, which "
                "is no token; download it again."
            )
        if text := _content(value):
            found[int(key)] = _added(text, value, special)
    return found


def _added(text: str, value: Mapping[str, Any], special: set[str]) -> AddedToken:
    return AddedToken(
        text,
        single_word=bool(value.get("single_word")),
        lstrip=bool(value.get("lstrip")),
        rstrip=bool(value.get("rstrip")),
        normalized=False,
        special=text in special,
    )


def _content(token: Any) -> str | None:
    """A token is written as a string or as an object with its `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None
