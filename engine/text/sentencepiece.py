"""SentencePiece's two algorithms over `tokenizers`, from pieces and scores. Knows no files."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

SPACE = "▁"


class SpaceRule(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to spaces before text is cut into pieces.

    `prefix`: a space goes before `each` stretch of text between special tokens (llama.cpp, and
    Hugging Face's Llama and Mistral), before the `first` one only, or nowhere. `joins_runs`: spaces
    at the ends go, and runs of them are one. `charsmap` is SentencePiece's compiled normalizer.
    """

    prefix: Literal["none", "each", "first"] = "each"
    joins_runs: bool = False
    charsmap: bytes = b""

    @property
    def has_prefix(self) -> bool:
        """Whether a decoded text's first space was not in the original."""
        return self.prefix != "none"

    def apply(self, backend: tokenizers.Tokenizer) -> None:
        """Set up normalizer and pre-tokenizer."""
        steps: list[normalizers.Normalizer] = []
        if self.charsmap:
            steps.append(normalizers.Precompiled(self.charsmap))
        if self.joins_runs:
            steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
            steps.append(normalizers.Replace(Regex(" {2,}"), " "))
        if self.prefix == "each":
            steps.append(normalizers.Prepend(SPACE))
        backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
        if self.prefix == "first":
            backend.pre_tokenizer = pre_tokenizers.Metaspace(
                SPACE, prepend_scheme="first", split=False
            )


def merges_from_scores(
    ids: Mapping[str, int], scores: Mapping[str, float]
) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third, in the order in which SentencePiece would.

    `ids` are the pieces that can be joined, `scores` those that a join may make. The joined piece
    with the highest score goes first, then the lower id, then the longer left part, which is the
    leftmost pair wherever two ways to make one piece overlap in natural text. (SentencePiece itself
    is leftmost in every tie; merges cannot say that.)
    """
    merges = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                merges.append((-score, ids[piece], -cut, left, right))
    merges.sort()
    return [(left, right) for *_, left, right in merges]


def bpe_backend(
    vocab: dict[str, int],
    merges: Sequence[tuple[str, str]],
    unk_token: str | None,
    spaces: SpaceRule,
) -> tokenizers.Tokenizer:
    """A tokenizer that joins by rank and spells what is in no piece as `<0xNN>` bytes."""
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocab, merges=list(merges), unk_token=unk_token, fuse_unk=True, byte_fallback=True
        )
    )
    return _with_spaces(backend, spaces)


def scored_bpe_backend(
    vocab: dict[str, int], scores: Mapping[str, float], unk_token: str | None, spaces: SpaceRule
) -> tokenizers.Tokenizer:
    """The same, joining by score. `scores` holds the pieces that text may turn into."""
    merges = merges_from_scores({piece: vocab[piece] for piece in scores}, scores)
    return bpe_backend(vocab, merges, unk_token, spaces)


def unigram_backend(
    pieces: Sequence[tuple[str, float]], unk_id: int | None, has_bytes: bool, spaces: SpaceRule
) -> tokenizers.Tokenizer:
    """A tokenizer that takes the cut with the highest sum of scores (log probabilities)."""
    backend = tokenizers.Tokenizer(models.Unigram(list(pieces), unk_id, has_bytes))
    _with_spaces(backend, spaces)
    if has_bytes:  # `tokenizers` takes the names of bytes for text: no piece may span `<0x41>`
        cut = pre_tokenizers.Split(Regex("<(?=0x[0-9A-F]{2}>)"), "merged_with_previous")
        before = [backend.pre_tokenizer] if backend.pre_tokenizer is not None else []
        backend.pre_tokenizer = pre_tokenizers.Sequence([*before, cut])
    return backend


def _with_spaces(backend: tokenizers.Tokenizer, spaces: SpaceRule) -> tokenizers.Tokenizer:
    spaces.apply(backend)
    strip = [decoders.Strip(" ", 1, 0)] if spaces.has_prefix else []
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    backend.decoder = decoders.Sequence(steps)
    return backend


def user_token(text: str, spaces: SpaceRule, strips_right: bool = False) -> AddedToken | None:
    """A token that a user defined: found whole, before text is cut, perhaps with white space.

    One with SentencePiece's space is found in the normalized text. None: it cannot be, as it would
    get a space of its own, and is left to be joined from its parts.
    """
    if SPACE not in text:
        return AddedToken(text, normalized=False, special=False, rstrip=strips_right)
    if spaces.prefix == "each":
        return None
    return AddedToken(text, normalized=True, special=False, rstrip=strips_right)
