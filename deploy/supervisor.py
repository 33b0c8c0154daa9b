"""Keeps a Redis and some processes alive until told to stop, and leaves none behind.

Knows when to start a process again and in which order to end them, not what they do.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from deploy import children
from deploy.redis_server import EmbeddedRedis
from deploy.signals import Signals

_FIRST_DELAY_S = 0.5
_MAX_DELAY_S = 30.0
_PROVEN_S = 60.0  # who lived this long starts again at once and with a clean record
_POLL_S = 0.1


class Role(NamedTuple):
    """A process to keep alive. `refusals` are exit statuses that starting again would not mend."""

    name: str
    command: Sequence[str]
    death_signal: signal.Signals
    stop_timeout_s: float
    refusals: frozenset[int]


class Child:
    """The process of one role, through its lives."""

    def __init__(self, role: Role, environ: Mapping[str, str]) -> None:
        self.role = role
        self._environ = environ
        self._num_failures = 0
        self._start()

    def _start(self) -> None:
        self._started_s = time.monotonic()
        self._due_s: float | None = None
        self.process = children.spawn(
            self.role.command, death_signal=self.role.death_signal, environ=self._environ
        )

    def tend(self) -> int | None:
        """Start again what died, once its delay is over. The exit status when it has just died."""
        if self._due_s is not None:
            if time.monotonic() >= self._due_s:
                self._start()
            return None
        status = self.process.poll()
        if status is not None:
            children.kill_group(self.process)  # what it started must not meet its successor
            self._due_s = time.monotonic() + self._delay_s()
        return status

    def _delay_s(self) -> float:
        if time.monotonic() - self._started_s > _PROVEN_S:
            self._num_failures = 0
        self._num_failures += 1
        return min(_FIRST_DELAY_S * 2.0 ** (self._num_failures - 1), _MAX_DELAY_S)


class Supervisor:
    """Owns the processes from `start` to `stop`. `redis` is None where another one is used."""

    def __init__(self, signals: Signals, redis: EmbeddedRedis | None) -> None:
        self._signals = signals
        self._redis = redis
        self._children: list[Child] = []
        self.is_proven = False  # set once all are ready: from then on nothing is final

    def start(self, roles: Sequence[Role], environ: Mapping[str, str]) -> None:
        """Start a process for every role, in order."""
        self._children += [Child(role, environ) for role in roles]

    def tend(self) -> int | None:
        """Look after everyone once. The exit status of a child that refused for good, else None."""
        if self._redis is not None and self._redis.pid is None:
            say("Redis died; starting it again")
            self._redis.restart()
        for child in self._children:
            status = child.tend()
            if status is None:
                continue
            if not self.is_proven and status in child.role.refusals:
                say(f"stopped, because the {child.role.name} process cannot start")
                return status
            say(f"the {child.role.name} process {_describe(status)}; starting it again")
        return None

    def stop(self) -> None:
        """End the last started first, each within its time; a second signal kills all at once."""
        for child in reversed(self._children):
            self._end(child.process, child.role.stop_timeout_s)
        self._children.clear()
        if self._redis is not None:
            self._redis.stop()

    def _end(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        if process.poll() is None:
            process.terminate()
        deadline_s = time.monotonic() + timeout_s
        while process.poll() is None and not self._is_urgent() and time.monotonic() < deadline_s:
            self._signals.wait(_POLL_S)
        children.kill_group(process)

    def _is_urgent(self) -> bool:
        return self._signals.num_stops > 1


def say(text: str) -> None:
    """One line for the person at the terminal."""
    print(f"tramontane: {text}", file=sys.stderr, flush=True)


def _describe(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was killed by {signal.Signals(-status).name}"
