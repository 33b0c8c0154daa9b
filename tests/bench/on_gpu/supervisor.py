"""Runs a part in processes that may crash or hang: what they found is kept, and why they ended."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from deploy import children
from tests.bench.on_gpu.child import Line, Order
from tests.bench.on_gpu.row import Row

_POLL_S = 0.1
_GRACE_S = 5.0  # a child looks at the clock between its cases; so long it may be late
CHILD = (sys.executable, str(Path(__file__).with_name("child.py")))


def run_part(order: Order, found: Callable[[Row], None], program: Sequence[str] = CHILD) -> None:
    """Have `order` obeyed; each row goes to `found` as it comes. It ends in time whatever happens.

    A process that dies does so for its case alone: the next one begins behind that.
    """
    end = time.monotonic() + order.seconds
    first: int | None = order.first
    while first is not None:
        left = end - time.monotonic()
        if left <= 0:
            note = "there was no time left for what is behind that"
            found(Row(part=order.part, name=order.part, state="skipped", note=note))
            return
        with tempfile.TemporaryDirectory() as directory:
            lines = Path(directory) / "lines"
            lines.touch()
            given = msgspec.structs.replace(order, first=first, seconds=left, lines=str(lines))
            first = _Attempt(given, found, Path(directory)).run(program, end + _GRACE_S)


class _Attempt:
    """One process."""

    def __init__(self, order: Order, found: Callable[[Row], None], directory: Path) -> None:
        self._order = order
        self._found = found
        self._said = directory / "said"
        self._open: Line | None = None  # the case that was begun last, unless it told its failure
        self._number = order.first - 1  # of that case
        self._rest = b""  # of a line that is not whole yet

    def run(self, program: Sequence[str], end: float) -> int | None:
        """Follow it until it ends or time does. Where the next one is to begin; None: nowhere."""
        command = [*program, msgspec.json.encode(self._order).decode()]
        with self._said.open("wb") as said, Path(self._order.lines).open("rb") as lines:
            process = children.spawn(
                command,
                death_signal=signal.SIGKILL,
                stdout=said.fileno(),
                stderr=subprocess.STDOUT,
            )
            try:
                while process.poll() is None and time.monotonic() < end:
                    self._take(lines.read())
                    time.sleep(_POLL_S)
                is_late = process.poll() is None
            finally:
                process.kill()
                process.wait()
            self._take(lines.read())
        if is_late:
            self._fail("it ran out of time")
            return self._number + 1
        if process.returncode == 0:
            return None
        has_begun = self._number >= self._order.first
        self._fail(f"its process ended with {process.returncode}: {self._last_words()}")
        return self._number + 1 if has_begun else None

    def _take(self, told: bytes) -> None:
        *whole, self._rest = (self._rest + told).split(b"\n")
        for text in whole:
            line = msgspec.json.decode(text, type=Line)
            if line.row is None:
                self._open, self._number = line, line.number
            else:
                self._found(line.row)
                if line.row.state == "failed":
                    self._open = None

    def _fail(self, note: str) -> None:
        """Of the open case, or of the part if there was none yet."""
        if self._open is None and self._number >= self._order.first:
            return  # it said why itself
        name = self._order.part if self._open is None else self._open.begun
        self._found(Row(part=self._order.part, name=name, state="failed", note=note))

    def _last_words(self) -> str:
        words = self._said.read_bytes().decode(errors="replace").strip().splitlines()
        return words[-1][:300] if words else "it said nothing"
