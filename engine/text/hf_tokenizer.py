"""Builds a Tokenizer from the files of a Hugging Face model. Knows no GGUF and no chat template."""

from pathlib import Path
from typing import Any

import msgspec
import tokenizers
from tokenizers import normalizers

from engine.errors import LoadError
from engine.json_file import read_json, read_json_if_there
from engine.text.decoding import parse_decoder
from engine.text.slow_tokenizer import load_slow_tokenizer
from engine.text.special_tokens import named_tokens, read_settings, special_texts
from engine.text.tokenizer import Tokenizer


class _SentenceTransformers(msgspec.Struct):
    do_lower_case: bool = False


class _TokenizerJson(msgspec.Struct):
    decoder: dict[str, Any] | None = None


def load_tokenizer(directory: Path) -> Tokenizer:
    """Read tokenizer.json, or else one of the older forms that `slow_tokenizer.py` knows.

    tokenizer_config.json and special_tokens_map.json name the special tokens. As in transformers 5,
    tokenizer.json alone says whether BOS and EOS are added; an older `add_bos_token` in the config
    may contradict it. Raises LoadError if no tokenizer is there, or it is damaged, or of a kind
    that cannot be streamed.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        return load_slow_tokenizer(directory)
    backend = _load_backend(path)
    _lower(backend, directory)
    document = read_json(path, _TokenizerJson)
    settings = read_settings(directory)
    _mark_special(backend, special_texts(settings))
    return Tokenizer(backend, parse_decoder(document.decoder), named_tokens(settings))


def _load_backend(path: Path) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise LoadError(f"{path} cannot be read ({error}); download it again.") from error
    # Training settings that some files carry; they would cut or fill prompts.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _lower(backend: tokenizers.Tokenizer, directory: Path) -> None:
    """sentence-transformers may want texts in lower case, whatever the tokenizer does itself."""
    path = directory / "sentence_bert_config.json"
    settings = read_json_if_there(path, _SentenceTransformers)
    if settings is not None and settings.do_lower_case:
        steps = [normalizers.Lowercase()]
        steps += [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence(steps)


def _mark_special(backend: tokenizers.Tokenizer, tokens: set[str]) -> None:
    """As transformers does; but a token without an id has no row in the model: it stays text."""
    known = {
        token.content for token in backend.get_added_tokens_decoder().values() if token.special
    }
    missing = sorted(t for t in tokens - known if backend.token_to_id(t) is not None)
    backend.add_special_tokens([tokenizers.AddedToken(t, normalized=False) for t in missing])
