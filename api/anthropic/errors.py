"""Errors as Anthropic's clients read them. Knows codes and statuses, no HTTP server.

https://docs.anthropic.com/en/api/errors
"""

import msgspec

from api.errors import ApiError
from api.schema.anthropic_object import ErrorBody, ErrorDetails, ErrorObject
from workers.contract import MESSAGES

THREAD = "thread_unsupported_request"
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def is_anthropic(path: str) -> bool:
    """True for a request that has to be answered in Anthropic's form."""
    return path == MESSAGES or path.startswith(MESSAGES + "/")


def error_object(error: ApiError, request_id: str | None) -> ErrorObject:
    """Anthropic's body; the field that is to blame is in our sentences."""
    kind = _TYPES.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if error.status < 500 else "api_error"
    details = _details(error) if error.code == THREAD else msgspec.UNSET
    return ErrorObject(ErrorBody(kind, error.message, details), request_id)


def _details(error: ApiError) -> ErrorDetails:
    """Its client's loops over tools begin with a thread, and read here that they have to do
    without.
    """
    return ErrorDetails(error.code, [error.param or ""])
