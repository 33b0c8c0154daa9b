"""Builds a Tokenizer from Mistral's own `tekken.json`: bytes by rank, as tiktoken lists them.

Format: mistral-common's Tekkenizer. Knows no chat template.
"""

import base64
from pathlib import Path
from typing import Annotated

import msgspec

from engine.errors import LoadError
from engine.json_file import read_json
from engine.text.decoding import byte_level_text
from engine.text.pretokenizers import Profile
from engine.text.sentencepiece import merges_from_scores
from engine.text.token_type import TokenType
from engine.text.tokenizer import Tokenizer
from engine.text.vocabulary import Vocabulary, byte_level_tokenizer

_NAMES = {"<s>": "bos_token", "</s>": "eos_token", "<unk>": "unk_token", "<pad>": "pad_token"}


# A list is made that long; the largest file has 200,000.
_Id = Annotated[int, msgspec.Meta(ge=0, lt=1 << 20)]


class _Config(msgspec.Struct):
    pattern: str
    default_vocab_size: int
    default_num_special_tokens: _Id


class _Ranked(msgspec.Struct):
    rank: _Id
    token_bytes: str  # in base64


class _Special(msgspec.Struct):
    rank: _Id
    token_str: str
    is_control: bool = True


class _Tekken(msgspec.Struct):
    config: _Config
    vocab: list[_Ranked]
    special_tokens: list[_Special] | None = None


def load_tekken(path: Path) -> Tokenizer:
    """Read a tekken.json. Raises LoadError for a damaged one, or one without special tokens."""
    document = read_json(path, _Tekken)
    if not document.special_tokens:
        raise LoadError(
            f"{path} lists no special tokens; put the model's tokenizer.json beside it."
        )
    pieces = _pieces(document)
    merges = merges_from_scores(
        pieces, {piece: -float(rank) for piece, rank in pieces.items() if len(piece) > 1}
    )
    profile = Profile(patterns=(document.config.pattern,), ignores_merges=True)
    vocab = _vocabulary(document.special_tokens, document.config, pieces)
    return byte_level_tokenizer(vocab, merges, profile, adds_bos=True, adds_eos=False)


def _pieces(document: _Tekken) -> dict[str, int]:
    """The ranks that the model has, a file may list more, by what they stand for."""
    size = document.config.default_vocab_size - document.config.default_num_special_tokens
    return {
        byte_level_text(base64.b64decode(entry.token_bytes, validate=True)): entry.rank
        for entry in document.vocab
        if entry.rank < size
    }


def _vocabulary(special: list[_Special], config: _Config, pieces: dict[str, int]) -> Vocabulary:
    """Special tokens first, places that have none included; then the ranks."""
    offset = config.default_num_special_tokens
    tokens = [f"<SPECIAL_{id_}>" for id_ in range(offset)] + [""] * len(pieces)
    types = [int(TokenType.CONTROL)] * offset + [int(TokenType.NORMAL)] * len(pieces)
    for token in special:
        tokens[token.rank] = token.token_str
        if not token.is_control:
            types[token.rank] = int(TokenType.USER_DEFINED)
    for piece, rank in pieces.items():
        tokens[offset + rank] = piece
    named = {_NAMES[t.token_str]: t.rank for t in special if t.token_str in _NAMES}
    return Vocabulary(tokens=tokens, types=types, named_ids=named)
