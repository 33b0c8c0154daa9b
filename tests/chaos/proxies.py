"""The proxies of a fleet, all in one process of their own, as the tests see them."""

import itertools
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from deploy import children

ROOT = Path(__file__).parents[2]


class Proxies:
    """The process; it ends with `close`, or with us."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = children.spawn(
                [sys.executable, "-m", "tests.chaos.proxy", str(theirs.fileno())],
                death_signal=signal.SIGKILL,
                environ={**os.environ, "PYTHONPATH": str(ROOT)},
                pass_fds=[theirs.fileno()],
            )
        self._lines = ours.makefile("rwb")
        ours.close()  # the file keeps it open
        self._numbers = itertools.count()

    def make(self, target: Path) -> "Proxy":
        """A new port before the unix socket `target`."""
        return Proxy(self, next(self._numbers), target)

    def tell(self, number: int, method: str, *arguments: str) -> Any:
        """Call a method of a proxy; what it returns."""
        self._lines.write(json.dumps([number, method, *arguments]).encode() + b"\n")
        self._lines.flush()
        answer = self._lines.readline()
        assert answer, "the process of the proxies died"
        return json.loads(answer)

    def close(self) -> None:
        self._lines.close()
        self._process.wait(20)


class Proxy:
    """One of them; proxy.py says what the methods do."""

    def __init__(self, proxies: Proxies, number: int, target: Path) -> None:
        self._proxies = proxies
        self._number = number
        self.port: int = proxies.tell(number, "start", str(target))

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> int:
        """How many connections there were."""
        return int(self._tell("cut"))

    def refuse(self) -> None:
        self._tell("refuse")

    def freeze(self) -> None:
        self._tell("freeze")

    def mute(self) -> None:
        self._tell("mute")

    def restore(self) -> None:
        self._tell("restore")

    def close(self) -> None:
        self._tell("close")

    def _tell(self, method: str) -> Any:
        return self._proxies.tell(self._number, method)
