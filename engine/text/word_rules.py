"""Rules about words, as rules about token ids: what a request's strings mean to the sampler.

Knows a vocabulary, no request.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from engine.config import DryParams
from engine.text.tokenizer import Tokenizer

BREAKERS = ("\n", ":", '"', "*")


class Rules(NamedTuple):
    """What all answers to a request share."""

    bad_words: tuple[tuple[int, ...], ...] = ()
    dry: DryParams | None = None


def bad_word_ids(words: Iterable[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """The ids of each word, at the beginning of a text and behind a space.

    A model can still spell a word with other tokens than its tokenizer takes.
    """
    spelled: dict[tuple[int, ...], None] = {}
    for word in words:
        for form in (word, f" {word.lstrip()}"):
            spelled[tuple(tokenizer.encode(form, add_special_tokens=False))] = None
    return tuple(ids for ids in spelled if ids)


def dry_params(
    tokenizer: Tokenizer,
    vocab_size: int,
    *,
    multiplier: float,
    base: float,
    allowed_length: int,
    breakers: tuple[str, ...],
) -> DryParams:
    """DRY with its breakers as the ids of all tokens whose text has one of them."""
    return DryParams(
        multiplier=multiplier,
        base=base,
        allowed_length=allowed_length,
        breaker_ids=_ids_with(tokenizer, vocab_size, breakers),
    )


@lru_cache(maxsize=64)  # a look at the whole vocabulary; most requests have the same breakers
def _ids_with(tokenizer: Tokenizer, vocab_size: int, texts: tuple[str, ...]) -> tuple[int, ...]:
    wanted = [text.encode() for text in texts]
    pieces = ((token_id, tokenizer.token_bytes(token_id)) for token_id in range(vocab_size))
    return tuple(i for i, piece in pieces if any(text in piece for text in wanted))
