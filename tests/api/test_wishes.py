"""What headers ask for, and how a bad one is refused."""

import pytest

from api.errors import ApiError
from api.wishes import MAX_WAIT_S, Wishes, cancel_after_ms, digest_of, read_wishes


def wishes(**headers):
    names = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    return read_wishes(lambda name: names.get(name.lower()))


def refusal(**headers):
    with pytest.raises(ApiError) as caught:
        wishes(**headers)
    return caught.value.status, caught.value.code, caught.value.param


def test_without_headers_nothing_is_asked():
    assert wishes() == Wishes()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("respond-async", (True, 0)),
        ("Respond-Async, wait=10", (True, 10)),
        ("wait=10", (False, 10)),
        ("return=minimal; foo=bar, respond-async;x", (True, 0)),
        ("wait = 5 , respond-async", (True, 5)),
        ("respond-async, wait=999999", (True, MAX_WAIT_S)),
        ("respond-async, wait=soon", (True, 0)),
        ("respond-async, wait=-1", (True, 0)),
        ("handling=lenient", (False, 0)),
        ("", (False, 0)),
    ],
)
def test_preferences_are_read_and_unknown_ones_ignored(text, expected):
    found = wishes(Prefer=text)
    assert (found.is_async, found.wait_s) == expected


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("30", 30_000),
        ("30s", 30_000),
        ("5m", 300_000),
        ("1h", 3_600_000),
        ("1m30s", 90_000),
        ("1h1m1s", 3_661_000),
        ("0", 0),
        ("0s", 0),
        ("-5", -5000),
    ],
)
def test_a_duration_has_many_forms(text, ms):
    assert cancel_after_ms(text) == ms


@pytest.mark.parametrize("text", ["", "s", "m5", "5x", "1.5s", "1s1m", "30 s", "\u0663", "9" * 20])
def test_a_duration_that_is_none_is_refused(text):
    assert refusal(Cancel_After=text) == (400, "invalid_value", "Cancel-After")


@pytest.mark.parametrize("text", ["", "x", "1.5", "1e3", "9" * 16, "\u0663", "--1"])
def test_a_deadline_that_is_no_number_is_refused(text):
    assert refusal(x_deadline_ms=text) == (400, "invalid_value", "x-deadline-ms")


def test_the_shorter_deadline_wins():
    assert wishes(x_deadline_ms="1500").deadline_ms == 1500
    assert wishes(x_deadline_ms="1500", Cancel_After="1").deadline_ms == 1000
    assert wishes(x_deadline_ms="1500", Cancel_After="1m").deadline_ms == 1500


@pytest.mark.parametrize("headers", [{"x_deadline_ms": "0"}, {"x_deadline_ms": "-7"}])
def test_a_deadline_in_the_past_has_passed(headers):
    assert refusal(**headers)[:2] == (408, "deadline_exceeded")
    assert refusal(**headers, Cancel_After="5m")[:2] == (408, "deadline_exceeded")
    assert refusal(Cancel_After="0s")[:2] == (408, "deadline_exceeded")


def test_a_class_is_one_of_three():
    assert wishes(x_priority="Batch ").service_class == "batch"
    assert wishes(x_priority="interactive").service_class == "interactive"
    assert refusal(x_priority="high") == (400, "invalid_value", "x-priority")
    assert refusal(x_priority="") == (400, "invalid_value", "x-priority")


@pytest.mark.parametrize("key", ["a", "x" * 255, '3f2a-"b" ~'])
def test_a_key_is_taken_as_it_is(key):
    assert wishes(Idempotency_Key=key).idempotency_key == key


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "caf\xe9", "\x7f"])
def test_a_key_that_is_too_long_or_unprintable_is_refused(key):
    assert refusal(Idempotency_Key=key) == (400, "invalid_value", "Idempotency-Key")


def test_a_digest_parts_routes_tenants_and_bodies():
    one = digest_of("/a", "t", b"body")
    others = [
        ("/a", "t", b"bodY"),
        ("/a", "u", b"body"),
        ("/at", "", b"body"),
        ("/a", "", b"tbody"),
    ]
    assert one == digest_of("/a", "t", b"body")
    assert len({one, *(digest_of(*other) for other in others)}) == 5


def test_only_a_request_with_a_key_has_a_digest():
    assert wishes().with_body("/a", "", b"x").digest == ""
    assert wishes(Idempotency_Key="k").with_body("/a", "", b"x").digest == digest_of("/a", "", b"x")
