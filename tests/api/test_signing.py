"""Signatures are those of Standard Webhooks, and secrets are what it says they are."""

import base64

import pytest

from api.hooks.signing import secret_key, signed_headers

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_example_of_the_standard_is_signed_as_it_says():
    body = b'{"test": 2432232314}'
    assert signed_headers(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("num_bytes", [24, 32, 64])
def test_a_secret_holds_a_key(num_bytes):
    key = bytes(range(num_bytes))
    assert secret_key("whsec_" + base64.b64encode(key).decode()) == key


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        SECRET.removeprefix("whsec_"),
        "whsec_" + "A" * 28,
        "whsec_" + "A" * 88,
        SECRET + "?",
        SECRET[:-1],
        "whsec_\u00e4" + "A" * 32,
    ],
    ids=["empty", "no key", "no prefix", "short", "long", "no base64", "cut", "no ASCII"],
)
def test_a_bad_secret_is_refused_and_not_shown(secret):
    with pytest.raises(ValueError, match="24 to 64 bytes") as caught:
        secret_key(secret)
    assert len(secret) < 10 or secret not in str(caught.value)
