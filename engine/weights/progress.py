"""The shape of a progress callback. Knows nothing of what progresses."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # done bytes, total bytes
