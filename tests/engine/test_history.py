"""DRY and bad words, against a plain rendering of their definitions, and in the sampler."""

import random
from array import array

import numpy as np
import pytest
import torch

from engine.config import DryParams
from engine.history import MAX_LENGTH, forbidden_ids, penalize_repetition, repetitions
from tests.engine.hash_model import HashModel, drain, hash_tokens, ids_of, make_engine, request


def plain_repetitions(tokens, breakers):
    """As DRY is defined: walk back from every earlier place."""
    lengths: dict[int, int] = {}
    for place in range(len(tokens) - 1):
        length = 0
        while (
            length <= place
            and tokens[place - length] == tokens[len(tokens) - 1 - length]
            and tokens[len(tokens) - 1 - length] not in breakers
            and length < MAX_LENGTH
        ):
            length += 1
        if length:
            lengths[tokens[place + 1]] = max(length, lengths.get(tokens[place + 1], 0))
    return lengths


@pytest.mark.parametrize("seed", range(40))
def test_repetitions_are_found_as_defined(seed):
    rng = random.Random(seed)
    tokens = [rng.randrange(2 + seed % 5) for _ in range(rng.randrange(1, 60))]
    breakers = (1,) if seed % 2 else ()
    assert repetitions(np.array(tokens, np.int32), breakers) == plain_repetitions(tokens, breakers)


def test_a_repetition_longer_than_the_limit_counts_as_the_limit():
    tokens = np.zeros(3 * MAX_LENGTH, np.int32)
    assert repetitions(tokens, ()) == {0: MAX_LENGTH}


def test_the_penalty_grows_with_the_length_from_the_allowed_one_on():
    tokens = array("i", [1, 2, 3, 4, 9, 2, 3, 5, 9, 1, 2, 3])
    logits = torch.zeros(10)
    penalize_repetition(logits, tokens, DryParams(multiplier=0.8, base=2.0, allowed_length=2))
    assert logits.tolist() == pytest.approx([0, 0, 0, 0, -1.6, -0.8, 0, 0, 0, 0])


def test_a_bad_word_s_last_id_is_forbidden_once_the_others_are_there():
    words = [(7,), (1, 2), (1, 2, 3), (5, 5)]
    assert forbidden_ids([], words) == [7]
    assert forbidden_ids([1], words) == [7, 2]
    assert forbidden_ids([9, 1, 2], words) == [7, 3]
    assert forbidden_ids([5], words) == [7, 5]


def made(**params):
    engine = make_engine()
    engine.add(request([3, 1, 4, 1, 5], max_tokens=12, **params))
    return ids_of(drain(engine)["a"])


def test_only_allowed_ids_are_sampled_greedily_and_drawn():
    allowed = (4, 11, 30)
    assert set(made(allowed_token_ids=allowed)) <= set(allowed)
    assert set(made(allowed_token_ids=allowed, temperature=2.0)) <= set(allowed)
    best = max(allowed, key=lambda i: HashModel().table[hash_tokens([3, 1, 4, 1, 5])][i])
    assert made(allowed_token_ids=allowed)[0] == best


def test_a_bad_word_of_two_tokens_does_not_come_and_its_parts_do():
    free = made()
    word = tuple(free[3:5])
    kept = made(bad_words=(word,))
    assert kept[:4] == free[:4]
    assert kept[4] != free[4]
    assert not any(tuple(kept[i : i + 2]) == word for i in range(len(kept) - 1))


def test_dry_keeps_a_model_from_saying_the_same_again():
    loop = {"logit_bias": {7: 100.0, 8: 80.0}}
    assert set(made(**loop)) == {7}
    kept = made(**loop, dry=DryParams(multiplier=50.0, allowed_length=2))
    assert 8 in kept
    assert made(**loop, dry=DryParams(multiplier=50.0, allowed_length=2, breaker_ids=(7,))) == (
        [7] * 12
    )


@pytest.mark.parametrize("done", [1, 5, 9])
def test_a_resume_goes_on_as_if_nothing_had_happened(done):
    params = {
        "dry": DryParams(multiplier=5.0, allowed_length=1),
        "bad_words": ((3, 4),),
        "allowed_token_ids": tuple(range(12)),
    }
    whole = made(**params)
    assert made(**params, output_ids=whole[:done]) == whole[done:]


def test_rows_without_rules_are_left_alone_beside_those_with_them():
    engine = make_engine()
    engine.add(request([3, 1, 4], id="free", max_tokens=8))
    engine.add(request([3, 1, 4], id="bound", max_tokens=8, allowed_token_ids=(1, 2)))
    outputs = drain(engine)
    assert ids_of(outputs["free"]) == HashModel().continue_greedily([3, 1, 4], 8)
    assert set(ids_of(outputs["bound"])) <= {1, 2}
