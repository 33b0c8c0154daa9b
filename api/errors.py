"""What can go wrong for a client, and the status and OpenAI body of each: the one table.

Knows no HTTP server.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from workers import contract


class Kind(NamedTuple):
    """How one error code is answered."""

    status: int
    type: str


_INVALID = "invalid_request_error"
_SERVER = "server_error"
_OVERLOADED = "overloaded_error"
_LIMITED = "rate_limit_error"

KINDS: Mapping[str, Kind] = {
    "invalid_json": Kind(400, _INVALID),
    "invalid_type": Kind(400, _INVALID),
    "invalid_value": Kind(400, _INVALID),
    "missing_required_parameter": Kind(400, _INVALID),
    "unsupported_parameter": Kind(400, _INVALID),
    "unsupported_content": Kind(400, _INVALID),
    "thread_unsupported_request": Kind(400, _INVALID),
    "context_length_exceeded": Kind(400, _INVALID),
    "previous_response_not_found": Kind(400, _INVALID),
    "item_not_found": Kind(400, _INVALID),
    "unsupported_model": Kind(400, _INVALID),
    "bad_request": Kind(400, _INVALID),
    "invalid_api_key": Kind(401, _INVALID),
    "permission_denied": Kind(403, _INVALID),
    "model_not_found": Kind(404, _INVALID),
    "job_not_found": Kind(404, _INVALID),
    "response_not_found": Kind(404, _INVALID),
    "not_found": Kind(404, _INVALID),
    "method_not_allowed": Kind(405, _INVALID),
    "request_timeout": Kind(408, _INVALID),
    "deadline_exceeded": Kind(408, _INVALID),
    "conflict": Kind(409, _INVALID),
    "idempotency_conflict": Kind(409, _INVALID),
    "request_too_large": Kind(413, _INVALID),
    "storage_full": Kind(413, _INVALID),
    "rate_limit_exceeded": Kind(429, _LIMITED),
    "tenant_queue_full": Kind(429, _LIMITED),
    "cancelled": Kind(499, _INVALID),
    "internal_error": Kind(500, _SERVER),
    "engine_error": Kind(500, _SERVER),
    "load_error": Kind(500, _SERVER),
    "job_lost": Kind(500, _SERVER),
    "unreadable_job": Kind(500, _SERVER),
    "too_many_attempts": Kind(500, _SERVER),
    "engine_crashed": Kind(500, _SERVER),
    "out_of_memory": Kind(500, _SERVER),
    "model_changed": Kind(500, _SERVER),
    "re_isq_failed": Kind(500, _SERVER),
    "no_workers": Kind(503, _OVERLOADED),
    "queue_full": Kind(503, _OVERLOADED),
    "queue_memory_full": Kind(503, _OVERLOADED),
    "too_many_streams": Kind(503, _OVERLOADED),
    "deadline_unmeetable": Kind(503, _OVERLOADED),
    "queue_unavailable": Kind(503, _SERVER),
    "draining": Kind(503, _SERVER),
    "job_expired": Kind(504, _SERVER),
    "timeout": Kind(504, _SERVER),
}

RETRY_AFTER_S: Mapping[str, int] = {
    "rate_limit_exceeded": 5,
    "tenant_queue_full": 5,
    "no_workers": 5,
    "queue_full": 5,
    "queue_memory_full": 5,
    "deadline_unmeetable": 5,
    "too_many_streams": 1,
    "queue_unavailable": 1,
    "draining": 1,
}

# Asking again does harm, or cannot help; openai-python would, unless it is told.
FINAL = frozenset(
    {
        "deadline_exceeded",
        "conflict",
        "idempotency_conflict",
        "too_many_attempts",
        "engine_crashed",
        "out_of_memory",
        "re_isq_failed",
    }
)


class ErrorBody(msgspec.Struct, frozen=True):
    """OpenAI's error object; all four fields are always there."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(msgspec.Struct, frozen=True):
    """The body of every error; `message` is repeated at the top for clients of mistral.rs."""

    error: ErrorBody
    message: str


class ApiError(Exception):
    """Anything that ends a request early.

    A code that is not in KINDS is answered as a server error.
    """

    def __init__(
        self,
        code: str,
        message: str,
        param: str | None = None,
        *,
        retry_after_s: int | None = None,
    ) -> None:
        """`retry_after_s` replaces the code's own."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self._retry_after_s = retry_after_s

    @classmethod
    def of(cls, failed: contract.Failed) -> "ApiError":
        """The error that a job's log ended with."""
        return cls(failed.code, failed.message, failed.param)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._kind.status

    @property
    def retry_after_s(self) -> int | None:
        """Seconds for the Retry-After header, where trying again makes sense."""
        return self._retry_after_s or RETRY_AFTER_S.get(self.code)

    @property
    def is_final(self) -> bool:
        """True if the same request should not be sent again."""
        return self.code in FINAL

    @property
    def _kind(self) -> Kind:
        return KINDS.get(self.code, KINDS["internal_error"])

    def response(self) -> ErrorResponse:
        """The JSON body."""
        body = ErrorBody(self.message, self._kind.type, self.param, self.code)
        return ErrorResponse(body, self.message)


class ClientGone(Exception):
    """The client left; nobody reads an answer any more."""
