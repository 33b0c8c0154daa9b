"""Requests and responses as JSON lines in a file, written by a thread off the hot path. Knows no
HTTP and no Redis.

One line per request (`"kind": "request"`) and one per response, joined by `request_id`. Prompts and
answers are in it.
"""

import logging
import queue
import threading
import time
from pathlib import Path
from typing import Any, Literal

import msgspec

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000


class Line(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One line of the file."""

    time: float
    kind: Literal["request", "response"]
    request_id: str
    path: str
    job_id: str | None = None
    status: int | None = None
    duration_s: float | None = None
    body: Any = None


class RequestLog:
    """Appends to `path` until closed.

    When the disk is slower than the traffic, lines are dropped and counted.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._lines: queue.Queue[Line | None] = queue.Queue(MAX_WAITING)
        self._start = b""  # a line end, if the last line was cut
        self.num_dropped = 0
        self._thread = threading.Thread(target=self._write, name="request-log", daemon=True)
        self._thread.start()

    def put(
        self, kind: Literal["request", "response"], request_id: str, path: str, **fields: Any
    ) -> None:
        """Queue a line; never waits."""
        line = Line(time=time.time(), kind=kind, request_id=request_id, path=path, **fields)
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.num_dropped += 1
            if self.num_dropped % 1000 == 1:
                logger.error("the request log is too slow: %d lines dropped", self.num_dropped)

    def close(self) -> None:
        """Write what is queued and close the file; waits for a few seconds at most."""
        self._lines.put(None)
        self._thread.join(5)

    def _write(self) -> None:
        num_lost = 0
        while (line := self._lines.get()) is not None:
            try:
                self._append(_encode(line))
            except (OSError, RecursionError) as error:
                num_lost += 1
                if num_lost == 1:  # a full disk must not fill the process's own log as well
                    logger.error("the request log cannot be written: %s", error)
            else:
                if num_lost:
                    logger.warning("the request log can be written again; %d lines lost", num_lost)
                num_lost = 0
        self._file.close()

    def _append(self, data: bytes) -> None:
        """One write, so that lines of several processes do not mix, unless the disk cuts it."""
        data = self._start + data
        while data:
            data = data[self._file.write(data) :]
            self._start = b"\n" if data else b""


def _encode(line: Line) -> bytes:
    return msgspec.json.encode(_readable(line)) + b"\n"


def _readable(line: Line) -> Line:
    """A raw body as JSON if it is JSON, else as text."""
    if not isinstance(line.body, bytes):
        return line
    try:
        body = msgspec.json.decode(line.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        body = line.body.decode("utf-8", "replace")
    return msgspec.structs.replace(line, body=body)
