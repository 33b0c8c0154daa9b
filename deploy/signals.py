"""Waiting for what a supervisor waits for: a request to stop, a child that ended, or time to pass.

Knows no child. One object a process, in its main thread.
"""

import contextlib
import select
import signal
import socket
import time
from types import FrameType, TracebackType

_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `make`, and a signal to a process group, deliver one wish twice
_SAME_WISH_S = 0.3


class Signals:
    """Within its context, stop signals are counted instead of raised, and end a `wait`."""

    def __init__(self) -> None:
        self.num_stops = 0
        self._last_stop_s = -_SAME_WISH_S
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def __enter__(self) -> "Signals":
        self._old = {number: signal.getsignal(number) for number in (*_STOP, signal.SIGCHLD)}
        self._old_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in _STOP:
            if number != signal.SIGHUP or self._old[number] != signal.SIG_IGN:  # nohup
                signal.signal(number, self._count)
        signal.signal(signal.SIGCHLD, self._wake)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._old_fd)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._read.close()
        self._write.close()

    def wait(self, timeout_s: float) -> None:
        """Sleep until a signal comes, at most `timeout_s`. A signal that came before counts."""
        select.select([self._read], [], [], max(timeout_s, 0.0))
        with contextlib.suppress(BlockingIOError):
            self._read.recv(4096)

    def _count(self, number: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if now_s - self._last_stop_s >= _SAME_WISH_S:
            self.num_stops += 1
        self._last_stop_s = now_s

    def _wake(self, number: int, frame: FrameType | None) -> None:
        """The byte that Python wrote to the wakeup socket is all that is needed."""
