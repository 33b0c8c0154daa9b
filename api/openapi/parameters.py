"""Parameters and headers by their names: what requests may carry beside a body, and answers too.

Knows no route.
"""

from typing import Literal, NamedTuple, get_args

from api.openapi.operation import Schema
from api.schema.file import MAX_PAGE
from api.wishes import CANCEL_AFTER, DEADLINE, IDEMPOTENCY_KEY, MAX_KEY_LENGTH, PREFER, PRIORITY
from workers.contract import ServiceClass

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "integer", "minimum": 0}
_DURATION: Schema = {"type": "string", "pattern": r"^[0-9]{1,6}[smh]?$"}
_COUNT: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}


class Parameter(NamedTuple):
    """One parameter of a query or one header of a request."""

    where: Literal["query", "header"]
    schema: Schema
    what: str


PARAMETERS: dict[str, Parameter] = {
    "limit": Parameter("query", _COUNT, "Most items of the page; each list has its bound."),
    "after": Parameter("query", _TEXT, "The id that the page begins behind."),
    "order": Parameter(
        "query", {"enum": ["asc", "desc"], "default": "desc"}, "`desc`: the newest first."
    ),
    "model": Parameter("query", _TEXT, "Only of this model."),
    "purpose": Parameter("query", _TEXT, "Only files of this purpose."),
    "stream": Parameter("query", {"type": "boolean"}, "Answer with server-sent events."),
    "starting_after": Parameter("query", _NUMBER, "The last event number that the client has."),
    "wait": Parameter("query", _NUMBER, "Seconds to hold on for the job's end, 60 at most."),
    "Last-Event-ID": Parameter("header", _NUMBER, "The last event number that the client has."),
    "If-None-Match": Parameter("header", _TEXT, "The `ETag` that the client has."),
    PRIORITY: Parameter(
        "header", {"enum": list(get_args(ServiceClass))}, "The class of the job in the queue."
    ),
    DEADLINE: Parameter(
        "header",
        {"type": "integer", "minimum": 1},
        "Milliseconds from now after which nobody needs the answer.",
    ),
    CANCEL_AFTER: Parameter(
        "header", _DURATION, "The same as a duration: `30`, `30s`, `5m`, `1m30s`."
    ),
    PREFER: Parameter(
        "header", _TEXT, "`respond-async` or `respond-async, wait=N`: 202 and the job's address."
    ),
    IDEMPOTENCY_KEY: Parameter(
        "header",
        {"type": "string", "pattern": f"^[ -~]{{1,{MAX_KEY_LENGTH}}}$"},
        "The same key and body get what the first request began; another body gets 409.",
    ),
    "x-webhook-url": Parameter(
        "header", {"type": "string", "format": "uri"}, "Called when work ends that runs on its own."
    ),
}

# What every request that becomes a job may say.
WISHES = (PRIORITY, DEADLINE, CANCEL_AFTER, PREFER, IDEMPOTENCY_KEY, "x-webhook-url")

HEADERS: dict[str, tuple[Schema, str]] = {
    "x-request-id": (_TEXT, "The request's own `x-request-id`, or one that the server made."),
    "x-job-id": (_TEXT, "The job that answers: `GET /v1/jobs/{job_id}`."),
    "location": (_TEXT, "Where the job can be looked at."),
    "preference-applied": (_TEXT, "`respond-async`."),
    "idempotent-replayed": (_TEXT, "`true` if the Idempotency-Key was known."),
    "etag": (_TEXT, "Changes when the job does."),
    "retry-after": ({"type": "integer"}, "Seconds after which to try again."),
    "x-should-retry": (_TEXT, "`false` if trying again cannot help."),
    "www-authenticate": (_TEXT, "`Bearer`."),
    **{
        f"x-ratelimit-{what}-{unit}": (_TEXT, f"The tenant's {unit} per minute: {what}.")
        for what in ("limit", "remaining", "reset")
        for unit in ("requests", "tokens")
    },
}
LIMITS = tuple(name for name in HEADERS if name.startswith("x-ratelimit-"))
# Of a request that becomes a job.
OF_A_JOB = ("x-job-id", "idempotent-replayed", *LIMITS)
