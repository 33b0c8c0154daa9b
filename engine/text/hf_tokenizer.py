"""Builds a Tokenizer from the files of a Hugging Face model. Knows no GGUF and no chat template."""

from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from engine.errors import LoadError
from engine.json_file import read_json, read_json_if_there
from engine.text.decoding import parse_decoder
from engine.text.tokenizer import Tokenizer

_NAMES = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "pad", "sep", "cls", "mask"))


class _TokenizerJson(msgspec.Struct):
    decoder: dict[str, Any] | None = None


def load_tokenizer(directory: Path) -> Tokenizer:
    """Read tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    As in transformers 5, tokenizer.json alone says whether BOS and EOS are added; an older
    `add_bos_token` in the config may contradict it. Raises LoadError if tokenizer.json is missing,
    damaged, or of a kind that cannot be streamed.
    """
    path = directory / "tokenizer.json"
    backend = _load_backend(path)
    document = read_json(path, _TokenizerJson)
    settings = _read_settings(directory)
    special_tokens = _named_tokens(settings)
    _mark_special(backend, {*special_tokens.values(), *_other_special_tokens(settings)})
    return Tokenizer(backend, parse_decoder(document.decoder), special_tokens)


def _load_backend(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise LoadError(_missing(path))
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise LoadError(f"{path} cannot be read ({error}); download it again.") from error
    # Training settings that some files carry; they would cut or fill prompts.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _missing(path: Path) -> str:
    if (path.parent / "tokenizer.model").is_file():
        return (
            f"{path.parent} has tokenizer.model but no tokenizer.json; make one with "
            "transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)."
        )
    return f"{path} does not exist; put the tokenizer.json of the model there."


def _read_settings(directory: Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json."""
    special = read_json_if_there(directory / "special_tokens_map.json", dict[str, Any]) or {}
    return special | (read_json_if_there(directory / "tokenizer_config.json", dict[str, Any]) or {})


def _content(token: Any) -> str | None:
    """A token is written as a string or as an object with its `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _named_tokens(settings: dict[str, Any]) -> dict[str, str]:
    tokens = {name: _content(settings.get(name)) for name in _NAMES}
    return {name: token for name, token in tokens.items() if token is not None}


def _other_special_tokens(settings: dict[str, Any]) -> set[str]:
    added = settings.get("added_tokens_decoder") or {}
    tokens = [token for token in added.values() if isinstance(token, dict) and token.get("special")]
    extra = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
    tokens += extra.values() if isinstance(extra, dict) else extra
    return {content for token in tokens if (content := _content(token)) is not None}


def _mark_special(backend: tokenizers.Tokenizer, tokens: set[str]) -> None:
    """As transformers does; but a token without an id has no row in the model: it stays text."""
    known = {
        token.content for token in backend.get_added_tokens_decoder().values() if token.special
    }
    missing = sorted(t for t in tokens - known if backend.token_to_id(t) is not None)
    backend.add_special_tokens([tokenizers.AddedToken(t, normalized=False) for t in missing])
