"""Finds an engine that hangs: it has work, we listen, and no step comes. Knows no Redis.

Time counts only in small pieces between two looks, so a worker that was itself frozen or busy for a
while does not take its own pause for the engine's.
"""

import logging
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

MAX_PIECE_S = 1.0
# A step on a CPU may take minutes when the model is large; and a CPU does not hang as a device may.
CPU_PATIENCE = 10


class Engine(Protocol):
    """What is watched."""

    num_reports: int
    is_heard: bool

    def kill(self) -> None:
        """End it; whoever runs it sees that it died."""


class StallClock:
    """How long an engine has been silent. Pure: the caller brings the time."""

    def __init__(self) -> None:
        self._last_s: float | None = None
        self._num_reports = -1
        self._silent_s = 0.0

    def restart(self) -> None:
        """Another engine takes its place."""
        self._silent_s = 0.0

    def look(self, now_s: float, num_reports: int, is_due: bool) -> float:
        """Seconds without a report since one was due; 0.0 after a report or if none is due."""
        piece_s = 0.0 if self._last_s is None else min(now_s - self._last_s, MAX_PIECE_S)
        self._last_s = now_s
        if num_reports != self._num_reports or not is_due:
            self._silent_s = 0.0
        else:
            self._silent_s += piece_s
        self._num_reports = num_reports
        return self._silent_s


class Watch:
    """Kills an engine that has made no step for `stall_s` although it `has_work`."""

    def __init__(
        self, engine: Engine, has_work: Callable[[], bool], *, device: str, stall_s: float
    ) -> None:
        self._engine = engine
        self._has_work = has_work
        self._stall_s = stall_s * (CPU_PATIENCE if device == "cpu" else 1)
        self._clock = StallClock()

    @property
    def period_s(self) -> float:
        """How often to look."""
        return min(MAX_PIECE_S, self._stall_s / 4)

    def look(self, now_s: float) -> None:
        """Look once; from the event loop, every `period_s`."""
        engine = self._engine
        is_due = engine.is_heard and self._has_work()
        silent_s = self._clock.look(now_s, engine.num_reports, is_due)
        if silent_s >= self._stall_s:
            logger.error("the engine has made no step for %.1f s: it hangs, killing it", silent_s)
            engine.kill()
            self._clock.restart()
