"""Parameters that a request has to have. Knows no particular request."""

from typing import TypeVar

from api.errors import ApiError

T = TypeVar("T")


def needed(value: T | None, param: str) -> T:
    """The value. Raises ApiError if there is none."""
    if value is None:
        raise missing(param)
    return value


def missing(param: str) -> ApiError:
    """The error for a parameter that is not there."""
    return ApiError("missing_required_parameter", f"Missing required parameter: '{param}'.", param)
