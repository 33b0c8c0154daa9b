"""Limits as clients are told of them."""

import pytest

from api.auth import Tenant
from api.rate_headers import duration, rate_headers

TENANT = Tenant("acme", requests_per_min=60, tokens_per_min=6000)


def test_full_buckets_need_no_time():
    assert rate_headers(TENANT, 60, 6000) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "60",
        "x-ratelimit-reset-requests": "0s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "6000",
        "x-ratelimit-reset-tokens": "0s",
    }


def test_what_is_missing_comes_back_steadily():
    headers = rate_headers(TENANT, 59, 0)
    assert headers["x-ratelimit-remaining-requests"] == "59"
    assert headers["x-ratelimit-reset-requests"] == "1s"
    assert headers["x-ratelimit-remaining-tokens"] == "0"
    assert headers["x-ratelimit-reset-tokens"] == "1m0s"


def test_a_bucket_in_debt_is_empty_and_takes_longer():
    headers = rate_headers(TENANT, 0.7, -30_000)
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-remaining-tokens"] == "0"
    assert headers["x-ratelimit-reset-tokens"] == "6m0s"


def test_a_limit_that_was_lowered_caps_what_remains():
    headers = rate_headers(TENANT, 1000, 6000)
    assert headers["x-ratelimit-remaining-requests"] == "60"
    assert headers["x-ratelimit-reset-requests"] == "0s"


def test_without_a_limit_there_are_no_headers():
    assert rate_headers(Tenant(), 5, 5) == {}
    names = rate_headers(Tenant("a", tokens_per_min=10), -1, 5)
    assert {name.rpartition("-")[2] for name in names} == {"tokens"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0000001, "0s"),
        (0.02, "20ms"),
        (0.0201, "21ms"),
        (0.1 + 0.2, "300ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (1.2, "2s"),
        (59.5, "1m0s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3605, "1h0m5s"),
        (86400, "24h0m0s"),
    ],
)
def test_a_time_is_written_as_openai_writes_it(seconds, text):
    assert duration(seconds) == text
