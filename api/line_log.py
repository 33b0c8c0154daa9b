"""Lines for a file, written by a thread off the hot path. Knows no line's content and no HTTP."""

import logging
import queue
import threading
from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
T = TypeVar("T")


class RawFile(Protocol):
    """A file without a buffer."""

    def write(self, data: bytes, /) -> int | None:
        """Write what fits and say how much that was."""
        ...

    def close(self) -> None:
        """No more."""
        ...


class LineLog(ABC, Generic[T]):
    """Appends to a file until closed; `encode` makes an item a line.

    When the disk is slower than the traffic, lines are dropped and counted.
    """

    def __init__(self, name: str, file: RawFile) -> None:
        self._name = name
        self._file = file
        self._lines: queue.Queue[T | None] = queue.Queue(MAX_WAITING)
        self._start = b""  # a line end, if the last line was cut
        self.num_dropped = 0
        self._thread = threading.Thread(target=self._write, name=name, daemon=True)
        self._thread.start()

    @abstractmethod
    def encode(self, item: T) -> bytes:
        """The line, with its end. Runs in the thread."""

    def add(self, item: T) -> None:
        """Queue a line; never waits."""
        try:
            self._lines.put_nowait(item)
        except queue.Full:
            self.num_dropped += 1
            if self.num_dropped % 1000 == 1:
                logger.error("the %s is too slow: %d lines dropped", self._name, self.num_dropped)

    def close(self) -> None:
        """Write what is queued and close the file; waits for a few seconds at most."""
        self._lines.put(None)
        self._thread.join(5)

    def _write(self) -> None:
        num_lost = 0
        while (line := self._lines.get()) is not None:
            try:
                self._append(self.encode(line))
            except (OSError, RecursionError) as error:
                num_lost += 1
                if num_lost == 1:  # a full disk must not fill the process's own log as well
                    logger.error("the %s cannot be written: %s", self._name, error)
            else:
                if num_lost:
                    logger.warning(
                        "the %s can be written again; %d lines lost", self._name, num_lost
                    )
                num_lost = 0
        self._file.close()

    def _append(self, data: bytes) -> None:
        """One write, so that lines of several processes do not mix, unless the disk cuts it."""
        data = self._start + data
        while data:
            data = data[self._file.write(data) or 0 :]
            self._start = b"\n" if data else b""
