"""Follows one answer over several API processes, in a thread: where one breaks off, on to the next.

Knows the event stream and its ids. Compares nothing.
"""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

HOST = "127.0.0.1"
_SILENCE_S = 20.0  # pings come far more often
_PAUSE_S = 0.05


class Piece(NamedTuple):
    """A frame of the answer: its event number, its text, when it came (monotonic seconds)."""

    number: int
    text: str
    at_s: float


class AnswerError(Exception):
    """The answer cannot be had any more; the message says why."""


class Follower(threading.Thread):
    """Asks `body` at the first port and keeps the pieces; `on_piece` hears of each at once.

    `error` says why it gave up, after `deadline_s` at the latest.
    """

    def __init__(
        self,
        ports: Sequence[int],
        body: Mapping[str, Any],
        *,
        on_piece: Callable[[Piece], None] = lambda piece: None,
        deadline_s: float = 120.0,
    ) -> None:
        super().__init__(daemon=True)
        self.pieces: list[Piece] = []
        self.num_connections = 0
        self.num_ends = 0  # choices that said why they ended
        self.error = ""
        self._ports = ports
        self._payload = json.dumps({**body, "stream": True})
        self._on_piece = on_piece
        self._deadline_s = deadline_s
        self._job_id = ""
        self._last_number = -1

    @property
    def text(self) -> str:
        """All that was heard."""
        return "".join(piece.text for piece in self.pieces)

    def run(self) -> None:
        """Until `[DONE]`, or until there is no hope."""
        deadline = time.monotonic() + self._deadline_s
        try:
            while not self._follow():
                if time.monotonic() > deadline:
                    raise AnswerError(f"no end after {self._deadline_s:.0f} s")
                time.sleep(_PAUSE_S)
        except AnswerError as error:
            self.error = str(error)

    def _follow(self) -> bool:
        """One connection. True when all was said. Raises AnswerError."""
        port = self._ports[self.num_connections % len(self._ports)]
        self.num_connections += 1
        connection = http.client.HTTPConnection(HOST, port, timeout=_SILENCE_S)
        try:
            return self._read(self._ask(connection))
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        if not self._job_id:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", self._payload, headers)
        else:
            place = {"Last-Event-ID": str(self._last_number)} if self._last_number >= 0 else {}
            connection.request("GET", f"/v1/jobs/{self._job_id}/events", headers=place)
        return connection.getresponse()

    def _read(self, response: http.client.HTTPResponse) -> bool:
        if response.status == 204:  # all was said; only the end was lost on the way
            return True
        if response.status != 200:
            if response.status < 500:
                raise AnswerError(f"HTTP {response.status}: {response.read(500)!r}")
            return False
        self._job_id = response.headers["x-job-id"]
        for number, data in _frames(response):
            if number is not None:
                self._last_number = number
            if data == "[DONE]":
                return True
            self._take(number, json.loads(data))
        return False

    def _take(self, number: int | None, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            raise AnswerError(chunk["error"]["message"])
        for choice in chunk["choices"]:
            self.num_ends += choice["finish_reason"] is not None
            if number is not None and "role" not in choice["delta"]:
                piece = Piece(number, choice["delta"].get("content") or "", time.monotonic())
                self.pieces.append(piece)
                self._on_piece(piece)


def _frames(response: http.client.HTTPResponse) -> Iterator[tuple[int | None, str]]:
    """Event number and data of each whole frame; a frame that was cut off does not count."""
    number: int | None = None
    data = ""
    for raw in response:
        line = raw.decode().rstrip("\r\n")
        if not line and raw.endswith(b"\n"):
            if data:
                yield number, data
            number, data = None, ""
        elif line.startswith("id: "):
            number = int(line[4:])
        elif line.startswith("data: "):
            data = line[6:]
