"""A model's vocabulary as llguidance wants it, and matchers over it. Knows no sequence.

The limits are for every grammar, so one that was tried in one process compiles in another.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from engine.errors import InvalidInput
from engine.text.spelling import Spelling
from engine.text.tokenizer import Tokenizer

# A tenth to a half of llguidance's own: what needs more takes seconds, or gigabytes.
_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 25_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,  # else they show the text so far
}
MAX_ERROR = 300
_NOTHING_FITS = "NoExtension"  # llguidance's name for it
# Where a state allows all of such a slice of the vocabulary, nobody walks through its tokens. The
# library's own slices are for what JSON strings may hold; these are what people write in regexes.
_CLASSES = ("[a-z]", "[A-Za-z]", "[A-Za-z0-9_]", "[a-z ]", "[A-Za-z ]", "[A-Za-z0-9_ ]")
SLICES = (*(f"{letters}{{1,16}}" for letters in _CLASSES), *LLTokenizer.general_slices())


class Matching(NamedTuple):
    """A vocabulary ready for matchers, and the ids that end an answer once a grammar may end."""

    tokenizer: LLTokenizer
    eos_ids: tuple[int, ...]


class _Source:
    """What LLTokenizer asks of a vocabulary."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_id: int) -> None:
        self.eos_token_id = eos_id
        self.bos_token_id = tokenizer.bos_id
        self.tokens = [tokenizer.token_bytes(i) for i in range(vocab_size)]
        self.special_token_ids = sorted(i for i in tokenizer.special_ids if i < vocab_size)
        self._spelling = Spelling(tokenizer, self.tokens)

    def __call__(self, text: str) -> list[int]:
        """The ids of a text that is the only one which can come next."""
        return self._spelling.ids(text)


def make_vocabulary(
    tokenizer: Tokenizer, vocab_size: int, more_eos_ids: Iterable[int] = ()
) -> Matching:
    """The vocabulary of a model with `vocab_size` ids. Raises InvalidInput if no id is an end."""
    ends = tokenizer.eos_ids | frozenset(more_eos_ids)
    eos_ids = sorted(i for i in ends if 0 <= i < vocab_size)
    if not eos_ids:
        raise InvalidInput("This model has no token that ends an answer; it takes no grammar.")
    source = _Source(tokenizer, vocab_size, eos_ids[0])
    return Matching(
        LLTokenizer(
            source,  # type: ignore[arg-type]
            n_vocab=vocab_size,
            eos_token=eos_ids,
            slices=list(SLICES),
        ),
        tuple(eos_ids),
    )


def make_matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """A matcher at the grammar's beginning. Raises InvalidInput if it does not compile."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(**_LIMITS))
    if matcher.is_error():
        raise InvalidInput(error_of(matcher))
    return matcher


def error_of(matcher: LLMatcher) -> str:
    """What went wrong, in a line."""
    error = matcher.get_error().replace("<non-verbose/>", "")
    return "No text fits it." if error.startswith(_NOTHING_FITS) else _in_a_line(error)


def _in_a_line(text: str) -> str:
    return " ".join(text.split())[:MAX_ERROR]


def try_grammar(tokenizer: LLTokenizer, grammar: str) -> None:
    """Compile it and compute its first mask. Raises InvalidInput if that is not to be done."""
    matcher = make_matcher(tokenizer, grammar)
    if not matcher.is_stopped():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise InvalidInput(error_of(matcher))
