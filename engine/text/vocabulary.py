"""A vocabulary as files list it, and the backend that is made of one. Knows no file format."""

from collections.abc import Mapping

import msgspec
import tokenizers
from tokenizers import AddedToken, decoders, models

from engine.text.decoding import BYTE_LEVEL, DecodeRule, sentencepiece_rule
from engine.text.pretokenizers import Profile
from engine.text.sentencepiece import (
    SpaceRule,
    bpe_backend,
    scored_bpe_backend,
    unigram_backend,
    user_token,
)
from engine.text.token_type import TokenType
from engine.text.tokenizer import Tokenizer, set_added_ends

_NO_WORD = -1e9  # a Unigram score that loses to everything that may be text
_SPECIAL = (TokenType.UNKNOWN, TokenType.CONTROL)


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens by id, with their types; the ids that have a name (`bos_token`, …) or end an answer.

    `added` are tokens for which a file says itself how they are found in a text. `strips_right`
    are special and user-defined tokens that swallow the white space behind them.
    """

    tokens: list[str]
    types: list[int]
    named_ids: dict[str, int]
    end_ids: frozenset[int] = frozenset()
    scores: list[float] = []
    added: Mapping[int, AddedToken] = {}
    strips_right: frozenset[str] = frozenset()

    @property
    def ids(self) -> dict[str, int]:
        """The id of each token."""
        return {token: id_ for id_, token in enumerate(self.tokens)}

    def named(self) -> dict[str, str]:
        """The named tokens' texts."""
        return {name: self.tokens[id_] for name, id_ in self.named_ids.items()}

    def is_special(self, id_: int) -> bool:
        """Some converters type chat tokens as normal; an id that the file names is never text."""
        if id_ in self.added:
            return bool(self.added[id_].special)
        return self.types[id_] in _SPECIAL or id_ in self.end_ids or id_ in self.named_ids.values()

    def is_text(self, id_: int, spaces: SpaceRule) -> bool:
        """Whether a text may turn into this piece by being cut or joined."""
        if id_ in self.added or self.is_special(id_):
            return False
        kind = self.types[id_]
        if kind == TokenType.USER_DEFINED:
            return user_token(self.tokens[id_], spaces) is None
        return kind in (TokenType.NORMAL, TokenType.UNUSED)


def sentencepiece_tokenizer(
    vocab: Vocabulary, spaces: SpaceRule, adds_bos: bool, adds_eos: bool
) -> Tokenizer:
    """SentencePiece's BPE, which joins by score."""
    scores = {
        token: vocab.scores[id_]
        for id_, token in enumerate(vocab.tokens)
        if vocab.is_text(id_, spaces)
    }
    backend = scored_bpe_backend(vocab.ids, scores, vocab.named().get("unk_token"), spaces)
    return _finished(backend, vocab, spaces, adds_bos, adds_eos)


def merged_tokenizer(
    vocab: Vocabulary,
    merges: list[tuple[str, str]],
    spaces: SpaceRule,
    adds_bos: bool,
    adds_eos: bool,
) -> Tokenizer:
    """SentencePiece's pieces, joined in the order of a list."""
    backend = bpe_backend(vocab.ids, merges, vocab.named().get("unk_token"), spaces)
    return _finished(backend, vocab, spaces, adds_bos, adds_eos)


def unigram_tokenizer(
    vocab: Vocabulary, spaces: SpaceRule, adds_bos: bool, adds_eos: bool
) -> Tokenizer:
    """SentencePiece's Unigram, which takes the most probable cut."""
    pieces = [
        (token, vocab.scores[id_] if vocab.is_text(id_, spaces) else _NO_WORD)
        for id_, token in enumerate(vocab.tokens)
    ]
    has_bytes = TokenType.BYTE in vocab.types
    backend = unigram_backend(pieces, vocab.named_ids.get("unk_token"), has_bytes, spaces)
    return _finished(backend, vocab, spaces, adds_bos, adds_eos)


def byte_level_tokenizer(
    vocab: Vocabulary,
    merges: list[tuple[str, str]],
    profile: Profile,
    adds_bos: bool,
    adds_eos: bool,
) -> Tokenizer:
    """GPT-2's BPE over bytes."""
    model = models.BPE(vocab=vocab.ids, merges=merges, ignore_merges=profile.ignores_merges)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = profile.normalizer()
    backend.pre_tokenizer = profile.pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    return _finished(backend, vocab, None, adds_bos, adds_eos)


def _finished(
    backend: tokenizers.Tokenizer,
    vocab: Vocabulary,
    spaces: SpaceRule | None,
    adds_bos: bool,
    adds_eos: bool,
) -> Tokenizer:
    _add_tokens(backend, vocab, spaces or SpaceRule(prefix="none"))
    named = vocab.named()
    set_added_ends(
        backend,
        named.get("bos_token") if adds_bos else None,
        named.get("eos_token") if adds_eos else None,
    )
    return Tokenizer(backend, _rule(spaces), named, vocab.end_ids)


def _rule(spaces: SpaceRule | None) -> DecodeRule:
    return BYTE_LEVEL if spaces is None else sentencepiece_rule(spaces.has_prefix)


def _add_tokens(backend: tokenizers.Tokenizer, vocab: Vocabulary, spaces: SpaceRule) -> None:
    """Tokens that are found in a text before it is split: special and user-defined ones."""
    found = [_added(vocab, id_, spaces) for id_, token in enumerate(vocab.tokens) if token]
    backend.add_special_tokens([token for token in found if token and token.special])
    backend.add_tokens([token for token in found if token and not token.special])


def _added(vocab: Vocabulary, id_: int, spaces: SpaceRule) -> AddedToken | None:
    token = vocab.tokens[id_]
    if id_ in vocab.added:
        return vocab.added[id_]
    strips = token in vocab.strips_right
    if vocab.is_special(id_):
        return AddedToken(token, normalized=False, special=True, rstrip=strips)
    is_users = vocab.types[id_] == TokenType.USER_DEFINED
    return user_token(token, spaces, strips) if is_users else None
