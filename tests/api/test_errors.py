"""One table from code to status."""

import pytest

from api.errors import KINDS, RETRY_AFTER_S, ApiError
from engine import errors
from workers.contract import WORKER_FAILURES


def test_every_code_that_workers_and_engines_fail_with_has_an_entry():
    kinds = [k for k in vars(errors).values() if isinstance(k, type)]
    codes = {k.code for k in kinds if issubclass(k, errors.EngineError)}
    assert codes | set(WORKER_FAILURES) <= KINDS.keys()


def test_what_can_be_tried_again_says_when():
    assert RETRY_AFTER_S.keys() == {
        code for code, kind in KINDS.items() if kind.status in (429, 503)
    }


def test_an_unknown_code_is_a_server_error_that_keeps_its_name():
    error = ApiError("something new", "oh")
    assert error.status == 500
    body = error.response()
    assert (body.error.code, body.error.type, body.message) == (
        "something new",
        "server_error",
        "oh",
    )


@pytest.mark.parametrize("code", KINDS)
def test_a_types_name_fits_its_status(code):
    kind = KINDS[code]
    assert (kind.type in ("invalid_request_error", "rate_limit_error")) == (kind.status < 500)
    assert (kind.type == "rate_limit_error") == (kind.status == 429)
