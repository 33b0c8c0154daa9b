"""Builds a Tokenizer from the metadata of a GGUF file. Takes a plain mapping and knows no files.

Keys and token types: ggml's docs/gguf.md.
"""

import re
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import msgspec
import tokenizers
from tokenizers import decoders, models

from engine.errors import LoadError
from engine.text.decoding import BYTE_LEVEL, sentencepiece_rule
from engine.text.pretokenizers import Profile, find_profile
from engine.text.sentencepiece import sentencepiece_backend
from engine.text.tokenizer import Tokenizer, set_added_ends

_PREFIX = "tokenizer.ggml."
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_SENTENCEPIECE_IDS = {"bos_token": 1, "eos_token": 2, "unk_token": 0}
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class _Vocab(msgspec.Struct, frozen=True, kw_only=True):
    tokens: list[str]
    types: list[int]
    named_ids: dict[str, int]  # bos_token, … -> id
    end_ids: frozenset[int]

    @property
    def ids(self) -> dict[str, int]:
        return {token: id_ for id_, token in enumerate(self.tokens)}

    def named(self) -> dict[str, str]:
        return {name: self.tokens[id_] for name, id_ in self.named_ids.items()}

    def is_special(self, id_: int) -> bool:
        """Some converters type chat tokens as normal; an id that the file names is never text."""
        if self.types[id_] in (TokenType.UNKNOWN, TokenType.CONTROL):
            return True
        return id_ in self.end_ids or id_ in self.named_ids.values()


def build_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF file: `llama` (SentencePiece BPE) or `gpt2` (byte-level BPE).

    Raises LoadError if it is missing, damaged, or of another kind.
    """
    kind = metadata.get(_PREFIX + "model")
    builders = {"llama": _sentencepiece, "gpt2": _byte_level}
    if kind not in builders:
        raise LoadError(
            f"the GGUF file has a tokenizer of kind {kind!r}, not llama or gpt2; "
            "use a file of a supported model."
        )
    try:
        return builders[kind](_Metadata(metadata))
    except LoadError:
        raise
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise LoadError(
            f"the GGUF file's tokenizer is damaged ({error}); download or convert the file again."
        ) from error


class _Metadata:
    """Reads the tokenizer's keys."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(_PREFIX + key, default)

    def array(self, key: str) -> Sequence[Any]:
        values = self.get(key)
        if values is None:
            raise LoadError(f"the GGUF file has no {_PREFIX}{key}; convert it again.")
        return list(values)

    def vocab(self, default_ids: Mapping[str, int]) -> _Vocab:
        tokens = [str(token) for token in self.array("tokens")]
        named = {name: self.get(key, default_ids.get(name)) for name, key in _NAMED.items()}
        ends = (self.get(key) for key in _END_KEYS)
        named_ids = {name: int(id_) for name, id_ in named.items() if _is_id(id_, tokens)}
        end_ids = {int(id_) for id_ in ends if _is_id(id_, tokens)}
        types = self.get("token_type")
        return _Vocab(
            tokens=tokens,
            types=[int(t) for t in types] if types is not None else _guess_types(tokens, named_ids),
            named_ids=named_ids,
            end_ids=frozenset(end_ids),
        )


def _is_id(value: Any, tokens: Sequence[str]) -> bool:
    return value is not None and 0 <= int(value) < len(tokens)


def _guess_types(tokens: Sequence[str], named_ids: Mapping[str, int]) -> list[int]:
    types = [
        int(TokenType.BYTE if _BYTE_TOKEN.fullmatch(token) else TokenType.NORMAL)
        for token in tokens
    ]
    for id_ in named_ids.values():
        types[id_] = int(TokenType.CONTROL)
    return types


def _sentencepiece(metadata: _Metadata) -> Tokenizer:
    vocab = metadata.vocab(_SENTENCEPIECE_IDS)
    scores = [float(score) for score in metadata.array("scores")]
    pieces = {
        token: scores[id_]
        for id_, token in enumerate(vocab.tokens)
        if vocab.types[id_] in (TokenType.NORMAL, TokenType.UNUSED) and not vocab.is_special(id_)
    }
    adds_first_space = bool(metadata.get("add_space_prefix", True))
    unk_token = vocab.named().get("unk_token")
    backend = sentencepiece_backend(vocab.ids, pieces, unk_token, adds_first_space)
    _add_tokens(backend, vocab)
    _apply_ends(backend, vocab, metadata, adds_bos=True)
    return Tokenizer(backend, sentencepiece_rule(adds_first_space), vocab.named(), vocab.end_ids)


def _byte_level(metadata: _Metadata) -> Tokenizer:
    vocab = metadata.vocab({})
    profile = find_profile(metadata.get("pre"))
    merges = [_split_merge(str(merge)) for merge in metadata.array("merges")]
    backend = _byte_level_backend(vocab.ids, merges, profile)
    _add_tokens(backend, vocab)
    _apply_ends(backend, vocab, metadata, profile.adds_bos)
    return Tokenizer(backend, BYTE_LEVEL, vocab.named(), vocab.end_ids)


def _split_merge(merge: str) -> tuple[str, str]:
    cut = merge.index(" ", 1)
    return merge[:cut], merge[cut + 1 :]


def _byte_level_backend(
    ids: dict[str, int], merges: list[tuple[str, str]], profile: Profile
) -> tokenizers.Tokenizer:
    model = models.BPE(vocab=ids, merges=merges, ignore_merges=profile.ignores_merges)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = profile.normalizer()
    backend.pre_tokenizer = profile.pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, vocab: _Vocab) -> None:
    """Tokens that are found in a text before it is split: special and user-defined ones."""
    special, plain = [], []
    for id_, token in enumerate(vocab.tokens):
        if token and vocab.is_special(id_):
            special.append(tokenizers.AddedToken(token, normalized=False, special=True))
        elif token and vocab.types[id_] == TokenType.USER_DEFINED:
            plain.append(tokenizers.AddedToken(token, normalized=False, special=False))
    backend.add_special_tokens(special)
    backend.add_tokens(plain)


def _apply_ends(
    backend: tokenizers.Tokenizer, vocab: _Vocab, metadata: _Metadata, adds_bos: bool
) -> None:
    named = vocab.named()
    wants_bos = metadata.get("add_bos_token", adds_bos)
    wants_eos = metadata.get("add_eos_token", False)
    set_added_ends(
        backend,
        named.get("bos_token") if wants_bos else None,
        named.get("eos_token") if wants_eos else None,
    )
