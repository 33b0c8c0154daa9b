"""What there is to say of one route and method, and what most routes share. Knows no route."""

from typing import Any, NamedTuple

from api.errors import ErrorResponse

Schema = dict[str, Any]

JSON = "application/json"
EVENTS = "text/event-stream"

PAGE = ("limit", "after")

# Error codes of api/errors.py by where they come from.
_ANY = {"bad_request", "internal_error"}
KEYED = frozenset({*_ANY, "invalid_api_key", "queue_unavailable"})
LOOK_UP = KEYED | {"invalid_value"}
BODY = LOOK_UP | {
    "invalid_json",
    "invalid_type",
    "missing_required_parameter",
    "request_timeout",
    "request_too_large",
    "idempotency_conflict",
    "deadline_exceeded",
    "queue_memory_full",
    "draining",
}
ADMIN = LOOK_UP | {"permission_denied"}
# How a job fails that its client waits for.
JOB = frozenset(
    {
        "model_not_found",
        "unsupported_model",
        "context_length_exceeded",
        "cancelled",
        "engine_error",
        "load_error",
        "job_lost",
        "unreadable_job",
        "too_many_attempts",
        "engine_crashed",
        "out_of_memory",
        "model_changed",
        "job_expired",
        "timeout",
        "too_many_streams",
    }
)
GENERATION = (
    BODY
    | JOB
    | {
        "unsupported_parameter",
        "unsupported_content",
        "rate_limit_exceeded",
        "tenant_queue_full",
        "no_workers",
        "queue_full",
        "deadline_unmeetable",
    }
)


class Reply(NamedTuple):
    """An answer that is no error. `body` is a type, None for an answer without one."""

    what: str
    body: Any = None
    status: int = 200
    media: str = JSON
    headers: tuple[str, ...] = ()


class Operation(NamedTuple):
    """One method of one route.

    `path` is the router's template, `body` the type of the request's JSON. `params` names query and
    header parameters of `parameters.py`, `errors` codes of `api/errors.py`. `streams` says what its
    server-sent events are, if it has any, and `error` the body of its errors.
    """

    method: str
    path: str
    summary: str
    replies: tuple[Reply, ...]
    errors: frozenset[str] = LOOK_UP
    body: Any = None
    media: str = JSON
    params: tuple[str, ...] = ()
    streams: str = ""
    error: Any = ErrorResponse
    is_public: bool = False

    @property
    def tag(self) -> str:
        """The family of routes that it belongs to."""
        first, _, rest = self.path.removeprefix("/v1").lstrip("/").partition("/")
        return first if rest or self.path.startswith("/v1/") else "health"

    @property
    def id(self) -> str:
        """A name that no other operation has."""
        words = self.path.translate(str.maketrans("/{}.:-", "      ")).split()
        return "_".join([self.method.lower(), *(word for word in words if word != "path")])
