"""What several routes read from a request: pages, numbers, places in a stream. Knows no route."""

from falcon.asgi import Request

from api.errors import ApiError

_MAX_DIGITS = 18


def limit_of(req: Request, default: int, most: int) -> int:
    """How much a page may hold, from `limit`. Raises ApiError."""
    text = req.get_param("limit")
    limit = default if text is None else whole_number(text)
    if limit is None or not 1 <= limit <= most:
        raise ApiError("invalid_value", f"'limit' must be between 1 and {most}.", "limit")
    return limit


def is_newest_first(req: Request) -> bool:
    """The direction of a list, from `order`: newest first unless it is `asc`. Raises ApiError."""
    order = req.get_param("order") or "desc"
    if order not in ("asc", "desc"):
        raise ApiError("invalid_value", "'order' must be 'asc' or 'desc'.", "order")
    return order == "desc"


def after_of(req: Request) -> int:
    """The last event number that the client has, -1 for none. Raises ApiError."""
    param = "starting_after"
    text = req.get_param(param)
    if text is None:
        param = "Last-Event-ID"
        text = req.get_header(param)
    if not text:
        return -1
    if (number := whole_number(text)) is None:
        raise ApiError("invalid_value", f"'{param}' must be an event number.", param)
    return number


def whole_number(text: str) -> int | None:
    """The number that digits make, None for anything else."""
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    return int(text) if is_number else None
