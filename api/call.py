"""How all that needs Redis runs its commands: through one gate per process. Knows no command."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Call(Protocol):
    """Runs a Redis command. Raises ApiError `queue_unavailable` while Redis is away."""

    def __call__(self, command: Callable[[], Awaitable[T]], /) -> Awaitable[T]:
        """Await what `command` returns."""
        ...
