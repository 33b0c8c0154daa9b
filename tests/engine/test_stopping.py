"""When a sequence ends."""

import pytest

from engine.config import SamplingParams
from engine.stopping import StopRule


@pytest.mark.parametrize(
    ("token_id", "length", "finish"),
    [
        (1, 7, None),
        (5, 7, "stop"),
        (5, 6, None),
        (1, 10, "length"),
        (5, 10, "stop"),
        (1, 11, "length"),
    ],
    ids=[
        "in the middle",
        "a stop id",
        "a stop id too early",
        "at the maximum",
        "a stop id at the maximum",
        "beyond the maximum",
    ],
)
def test_a_rule_names_the_reason(token_id, length, finish):
    assert StopRule([5], min_length=6, max_length=10).check(token_id, length) == finish


@pytest.mark.parametrize(
    ("params", "stop_ids", "min_length", "max_length"),
    [
        ({"max_tokens": 5}, {2, 3}, 10, 15),
        ({"max_tokens": 5, "ignore_eos": True}, set(), 10, 15),
        ({"max_tokens": 5, "stop_token_ids": (7, 8), "ignore_eos": True}, {7, 8}, 10, 15),
        ({"max_tokens": 5, "stop_token_ids": (7,), "min_tokens": 3}, {2, 3, 7}, 13, 15),
        ({"max_tokens": 500}, {2, 3}, 10, 100),
    ],
    ids=["eos", "ignore_eos", "stop ids alone", "min_tokens", "max_tokens beyond the context"],
)
def test_a_rule_follows_from_the_parameters(params, stop_ids, min_length, max_length):
    rule = StopRule.of(SamplingParams(**params), 10, eos_ids=(2, 3), max_length=100)
    assert (rule.stop_ids, rule.min_length, rule.max_length) == (stop_ids, min_length, max_length)
