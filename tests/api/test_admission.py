"""What the enqueue script's answers mean."""

import pytest

from api.admission import Accepted, RateLimited, accepted
from api.errors import ApiError


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ([1, -1, -1], Accepted("j", True)),
        ([1, 5, -1], Accepted("j", True, 5, None)),
        ([1, 0, 900], Accepted("j", True, 0, 900)),
        ([0], Accepted("j", True)),
        ([2, b"other"], Accepted("other", False)),
        ([2, b"j"], Accepted("j", True)),
    ],
    ids=["no limits", "one limit", "both", "reply lost", "same key", "reply lost with a key"],
)
def test_a_job_was_admitted_or_an_earlier_one_answers(reply, expected):
    assert accepted("j", reply) == expected


@pytest.mark.parametrize(
    ("reply", "status", "code", "retry_after_s"),
    [
        ([-1, 7], 503, "queue_full", 7),
        ([-2, 9], 429, "tenant_queue_full", 9),
        ([-3, 20, b"tokens", -1, 3], 429, "rate_limit_exceeded", 20),
        ([-4, 1500], 503, "deadline_unmeetable", 2),
        ([-4, 10**9], 503, "deadline_unmeetable", 120),
        ([-5], 409, "idempotency_conflict", None),
        ([-6], 499, "cancelled", None),
    ],
)
def test_a_refusal_says_when_to_try_again(reply, status, code, retry_after_s):
    with pytest.raises(ApiError) as caught:
        accepted("j", reply)
    error = caught.value
    assert (error.status, error.code, error.retry_after_s) == (status, code, retry_after_s)


def test_a_rate_limit_says_what_is_left():
    with pytest.raises(RateLimited) as caught:
        accepted("j", [-3, 20, b"tokens", 2, 0])
    assert (caught.value.requests_left, caught.value.tokens_left) == (2, 0)
    assert "tokens per minute" in caught.value.message
