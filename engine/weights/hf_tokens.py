"""The end-of-sequence ids that a Hugging Face directory names, in whichever file. Torch-free."""

from pathlib import Path

import msgspec

from engine.json_file import read_json

TokenIds = int | list[int] | None


class _GenerationConfig(msgspec.Struct):
    eos_token_id: TokenIds = None


class _AddedToken(msgspec.Struct):
    content: str = ""
    id: int = -1


class _TokenizerConfig(msgspec.Struct):
    eos_token: str | _AddedToken | None = None
    added_tokens_decoder: dict[int, _AddedToken] = {}


class _Tokenizer(msgspec.Struct):
    added_tokens: list[_AddedToken] = []


def read_eos_ids(directory: Path, from_config: TokenIds) -> tuple[int, ...]:
    """Every id that ends a sequence: config.json's, generation_config.json's, the tokenizer's own.

    Raises LoadError for a file that is there and cannot be read.
    """
    ids = _as_set(from_config)
    generation = directory / "generation_config.json"
    if generation.is_file():
        ids |= _as_set(read_json(generation, _GenerationConfig).eos_token_id)
    return tuple(sorted(ids | _tokenizer_eos(directory)))


def _as_set(ids: TokenIds) -> set[int]:
    if ids is None:
        return set()
    return {ids} if isinstance(ids, int) else set(ids)


def _tokenizer_eos(directory: Path) -> set[int]:
    path = directory / "tokenizer_config.json"
    if not path.is_file():
        return set()
    config = read_json(path, _TokenizerConfig)
    eos = config.eos_token
    if isinstance(eos, _AddedToken):
        eos = eos.content
    if eos is None:
        return set()
    ids = {id_ for id_, token in config.added_tokens_decoder.items() if token.content == eos}
    return ids or _added_token_ids(directory / "tokenizer.json", eos)


def _added_token_ids(path: Path, content: str) -> set[int]:
    if not path.is_file():
        return set()
    tokens = read_json(path, _Tokenizer).added_tokens
    return {token.id for token in tokens if token.content == content}
