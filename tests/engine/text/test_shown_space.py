"""Where a vocabulary's first space is not shown, a grammar speaks of what is shown."""

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.text.answer import Answer
from engine.text.constraint import Kind, grammar_of
from engine.text.grammar import make_matcher, make_vocabulary
from engine.text.text_model import load_vocabulary
from engine.weights.files import ModelRef, resolve
from tests.engine.models import tiny

DATA = Path(__file__).parent / "data"
NUM_WALKS = 10
MAX_TOKENS = 60


def load(name, folder):
    tiny.save_checkpoint("llama", folder)
    (folder / "tokenizer.model").write_bytes((DATA / f"{name}.model").read_bytes())
    return load_vocabulary(resolve(ModelRef(model=str(folder))))


@pytest.fixture(scope="module", params=["llama", "unigram", "gemma"])
def tokenizer(request, tmp_path_factory):
    return load(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    return make_vocabulary(tokenizer, tokenizer.vocab_size, more_eos_ids=[2]).tokenizer


def say(tokenizer, vocabulary, grammar, seed, *, is_continuation):
    """What is shown of a random text that the grammar allows; None if it has no end in time."""
    draw, matcher = random.Random(seed), make_matcher(vocabulary, grammar)
    answer, shown = Answer(tokenizer, (), is_continuation=is_continuation), []
    for _ in range(MAX_TOKENS):
        if matcher.is_stopped():
            break
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        bits = np.unpackbits(bits, count=vocabulary.vocab_size, bitorder="little")
        allowed = np.flatnonzero(bits)
        token_id = int(draw.choice(allowed))
        if token_id in vocabulary.eos_tokens:
            break
        assert matcher.consume_token(token_id)
        shown.append(answer.take([token_id], None)[1])
    else:
        return None
    shown.append(answer.take([], "stop")[1])
    return "".join(shown)


REGEXES = ["(yes|no|maybe)", " (yes|no)", " ?a ?b", "  x", r"[a-c ]{1,6}", r"\s*[0-9]{2}"]
CHOICES = ["north", " north", "south west", "  east", ""]


@pytest.mark.parametrize("is_continuation", [False, True], ids=["answer", "continuation"])
@pytest.mark.parametrize("regex", REGEXES)
def test_what_is_shown_matches_the_regex(tokenizer, vocabulary, regex, is_continuation):
    is_led = tokenizer.drops_first_space and not is_continuation
    grammar = grammar_of("regex", regex, is_led=is_led)
    for seed in range(NUM_WALKS):
        text = say(tokenizer, vocabulary, grammar, seed, is_continuation=is_continuation)
        assert text is None or re.fullmatch(regex, text), (regex, text)


def test_every_choice_can_be_shown_and_nothing_else(tokenizer, vocabulary):
    grammar = grammar_of("choice", CHOICES, is_led=tokenizer.drops_first_space)
    said = {say(tokenizer, vocabulary, grammar, i, is_continuation=False) for i in range(80)}
    assert said - {None} == set(CHOICES)


SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, "x"]}}, "required": ["a"]}
OTHERS = {
    "json_schema": (SCHEMA, lambda text: json.loads(text)["a"] in (1, "x") and text[0] == "{"),
    "lark": ('start: " "? "a" /b+/', re.compile(" ?ab+").fullmatch),
}


@pytest.mark.parametrize(("kind", "case"), OTHERS.items(), ids=OTHERS)
def test_other_kinds_hold_for_what_is_shown(tokenizer, vocabulary, kind, case):
    value, is_good = case
    grammar = grammar_of(kind, value, is_led=tokenizer.drops_first_space)
    for seed in range(NUM_WALKS):
        text = say(tokenizer, vocabulary, grammar, seed, is_continuation=False)
        assert text is None or is_good(text), text


def test_a_model_may_begin_as_it_is_used_to(tokenizer, vocabulary):
    """Most answers of such a model begin with a piece that has the space."""
    ids = tokenizer.encode("the", add_special_tokens=False)
    cases: dict[Kind, Any] = {"regex": "the", "choice": ["the"], "lark": 'start: "the"'}
    for kind, value in cases.items():
        matcher = make_matcher(
            vocabulary, grammar_of(kind, value, is_led=tokenizer.drops_first_space)
        )
        assert matcher.try_consume_tokens(ids) == len(ids)
        assert matcher.is_accepting()
