"""Masks of grammars: slices of the vocabulary make them cheaper, and never other ones."""

import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from engine import sampling
from engine.grammar import Bound, Grammars
from engine.text.grammar import make_matcher, make_vocabulary
from engine.text.grammar_text import of_json_schema, of_regex
from engine.text.text_model import load_text_model
from engine.weights.files import ModelRef, resolve

NUM_TOKENS = 24
REGEXES = (
    "([A-Z][a-z ]{3,40}[.!] ?){2,5}",
    r"(\w+ ){3,30}\w+",
    "[^x]{5,60}x",
    "[a-z]{1,9}(_[a-z0-9]{1,20}){0,4}",
    ".{10,70}",
    "[A-Za-z0-9_ ]{20,}!",
)
SCHEMAS = (
    {"type": "object"},
    {"type": "string", "maxLength": 30},
    {"type": "string", "pattern": "^[a-z ]{2,40}$"},
)
GRAMMARS = [*map(of_regex, REGEXES), *map(of_json_schema, SCHEMAS)]


@pytest.fixture(scope="module")
def tokenizer():
    return load_text_model(resolve(ModelRef(model="builtin"))).tokenizer


@pytest.fixture(scope="module")
def vocabularies(tokenizer):
    """One with slices, one without."""
    sliced = make_vocabulary(tokenizer, tokenizer.vocab_size).tokenizer
    return sliced, sliced.with_slices([])


@pytest.mark.parametrize("grammar", GRAMMARS, ids=[*REGEXES, *map(str, SCHEMAS)])
def test_slices_change_no_mask(vocabularies, grammar):
    @settings(
        max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.integers(0, 10**6))
    def walk(seed):
        draw = random.Random(seed)
        sliced, plain = (make_matcher(vocabulary, grammar) for vocabulary in vocabularies)
        for _ in range(NUM_TOKENS):
            mask = sliced.compute_bitmask()
            assert mask == plain.compute_bitmask()
            allowed = np.flatnonzero(
                np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
            )
            token_id = int(draw.choice(allowed))
            if plain.is_stopped() or not (
                sliced.consume_token(token_id) and plain.consume_token(token_id)
            ):
                break
        assert sliced.is_stopped() == plain.is_stopped()

    walk()


def test_where_a_grammar_may_end_so_may_its_sequence_by_its_own_ids(tokenizer):
    grammars = Grammars(lambda: tokenizer, tokenizer.vocab_size)
    states = [grammars.compile(of_regex(regex), []).result() for regex in ("ab", "(ab)?")]
    rows = [Bound(2 * i, state, {7}) for i, state in enumerate(states)]
    masks = grammars.begin(rows)
    forbidden = masks.forbidden()
    assert masks.lines.tolist() == [0, 2]
    ends = sorted({7, *tokenizer.eos_ids})
    assert forbidden[0, ends].all()
    assert not forbidden[1, ends].any()


@pytest.mark.parametrize("forbid", ["cpu", "device"])
def test_a_row_in_which_nothing_is_left_has_what_is_allowed_evenly(forbid):
    logits = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [-torch.inf, 1, -torch.inf, 2]])
    lines = np.array([0, 2])
    forbidden = np.array([[1, 0, 0, 1], [0, 1, 0, 1]], dtype=np.bool_)
    if forbid == "cpu":
        sampling.forbid(logits, lines, forbidden)
    else:
        sampling._forbid_on_device(logits, torch.from_numpy(lines), torch.from_numpy(forbidden))
    no = -torch.inf
    assert logits.tolist() == [[no, 2, 3, no], [5, 6, 7, 8], [0, no, 0, no]]
