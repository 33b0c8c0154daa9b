"""SentencePiece's BPE, from pieces and scores, over `tokenizers`. Knows no file format."""

from collections.abc import Mapping

import tokenizers
from tokenizers import decoders, models, normalizers

SPACE = "▁"


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


def sentencepiece_backend(
    vocab: dict[str, int],
    scores: Mapping[str, float],
    unk_token: str | None,
    adds_first_space: bool,
) -> tokenizers.Tokenizer:
    """A tokenizer that joins pieces by score and spells what is in no piece as `<0xNN>` bytes.

    `scores` holds the pieces that text may turn into. With `adds_first_space`, each stretch of text
    between special tokens gets a space before it, as in llama.cpp and in the published Llama and
    Mistral tokenizers.
    """
    merges = merges_from_scores({piece: vocab[piece] for piece in scores}, scores)
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocab, merges=merges, unk_token=unk_token, fuse_unk=True, byte_fallback=True
        )
    )
    prefix = [normalizers.Prepend(SPACE)] if adds_first_space else []
    backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE)])
    backend.decoder = decoders.Sequence(_decoder_steps(adds_first_space))
    return backend


def _decoder_steps(drops_first_space: bool) -> list[decoders.Decoder]:
    strip = [decoders.Strip(" ", 1, 0)] if drops_first_space else []
    return [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
