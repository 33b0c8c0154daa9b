"""How large a job is thought to be."""

from typing import Any

import msgspec
import pytest

from api.errors import ApiError
from api.estimate import (
    MAX_BYTES_PER_TOKEN,
    UNSAID_TOKENS,
    check_length,
    estimated,
    prompt_tokens,
)
from workers.contract import Job, Sampling


def job(max_tokens=None, n=1, **prompt):
    kind = "chat" if "messages" in prompt else "completion"
    spec: dict[str, Any] = {"id": "j", "kind": kind, "model": "m", "home": "A"}
    sampling = Sampling(seed=1, max_tokens=max_tokens)
    return Job(**spec, created_s=1, sampling=sampling, n=n, **prompt)


def chat(*contents):
    return job(messages=[{"role": "user", "content": content} for content in contents])


@pytest.mark.parametrize(
    ("sized", "tokens"),
    [
        (chat("a"), 1),
        (chat(""), 1),
        (chat("abcd"), 1),
        (chat("abcde"), 2),
        (chat("abcd", "efgh"), 2),
        (chat("\u20ac\u20ac\u20ac\u20ac"), 3),
        (job(prompts=["abcde"]), 2),
        (job(prompts=["abcde", "a"]), 3),
        (job(prompts=[[1, 2, 3], "a"]), 4),
    ],
)
def test_a_prompt_is_measured_by_its_bytes_or_by_its_ids(sized, tokens):
    assert prompt_tokens(sized) == tokens


LONGEST = 10 * MAX_BYTES_PER_TOKEN


@pytest.mark.parametrize(
    ("sized", "param"),
    [
        (chat("a" * LONGEST, "b"), "messages"),
        (
            msgspec.structs.replace(chat("a" * LONGEST, "b"), endpoint="/v1/responses"),
            "input",
        ),
        (job(prompts=["a", "b" * (LONGEST + 1)]), "prompt"),
        (job(prompts=["\u20ac" * (LONGEST // 3 + 1)]), "prompt"),
    ],
)
def test_a_prompt_that_no_tokenizer_makes_fit_is_refused(sized, param):
    with pytest.raises(ApiError) as caught:
        check_length(sized, 10)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)


def test_a_prompt_that_might_fit_is_left_to_the_worker():
    check_length(chat("a" * (LONGEST - 1), "b"), 10)
    check_length(job(prompts=["a" * LONGEST, "b" * LONGEST, [1] * 100]), 10)


def test_earlier_tool_calls_are_part_of_the_prompt():
    calls = [{"function": {"name": "f", "arguments": "x" * 400}}]
    said = [{"role": "assistant", "content": "", "tool_calls": calls}]
    assert prompt_tokens(job(messages=said)) >= 100


def test_a_cost_is_the_prompt_and_every_answer():
    assert estimated(job(10, prompts=["abcd"]), None).cost == 11
    assert estimated(job(10, n=3, prompts=["abcd", "a"]), None).cost == 2 + 6 * 10
    assert estimated(job(prompts=["abcd"]), None).cost == 1 + UNSAID_TOKENS


def test_no_answer_is_longer_than_the_context():
    assert estimated(job(10**9, prompts=["abcd"]), 2048).cost == 2049
    assert estimated(job(prompts=["abcd"]), 100).cost == 101


def test_the_estimate_is_in_the_job():
    found = estimated(job(10, prompts=["abcde"]), None)
    assert (found.prompt_tokens, found.cost) == (2, 12)
