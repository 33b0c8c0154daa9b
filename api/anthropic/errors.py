"""Errors as Anthropic's clients read them. Knows codes and statuses, no HTTP server.

https://docs.anthropic.com/en/api/errors
"""

from api.errors import ApiError
from api.schema.anthropic_object import ErrorBody, ErrorObject
from workers.contract import MESSAGES

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
    return ErrorObject(ErrorBody(kind, error.message), request_id)
