"""The replies of routes whose answer may be waited for, or come later. Knows no route."""

from typing import Any

from api.job_view import JobObject
from api.openapi.operation import Reply
from api.openapi.parameters import OF_A_JOB

_LATER = Reply(
    "The answer comes later, at the job's address.",
    JobObject,
    202,
    headers=("location", "preference-applied", *OF_A_JOB),
)


def answers(body: Any) -> tuple[Reply, ...]:
    """An answer of this type, now or later."""
    return Reply("The whole answer.", body, headers=OF_A_JOB), _LATER
