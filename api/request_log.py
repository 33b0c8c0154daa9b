"""Requests and responses as JSON lines in a file. Knows no HTTP and no Redis.

One line per request (`"kind": "request"`) and one per response, joined by `request_id`. Prompts and
answers are in it, unless it is redacted.
"""

import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from api.line_log import LineLog
from api.redaction import redacted
from api.rotation import Rotation, open_end


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


class RequestLog(LineLog[Line]):
    """Appends to `path` until closed; see `Rotation` for `max_bytes` and `num_kept`."""

    def __init__(
        self, path: Path, *, max_bytes: int = 0, num_kept: int = 0, is_redacted: bool = False
    ) -> None:
        self._is_redacted = is_redacted
        self._rotation = Rotation(path, max_bytes, num_kept)
        self._raw = open_end(path)
        super().__init__("request log", self._raw)

    def put(
        self, kind: Literal["request", "response"], request_id: str, path: str, **fields: Any
    ) -> None:
        """Queue a line; never waits."""
        self.add(Line(time=time.time(), kind=kind, request_id=request_id, path=path, **fields))

    def encode(self, item: Line) -> bytes:
        """The line, after there is a file with room for it."""
        body = _readable(item.body)
        if self._is_redacted:
            body = redacted(msgspec.to_builtins(body))
        data = msgspec.json.encode(msgspec.structs.replace(item, body=body)) + b"\n"
        if self._file is self._raw:
            self._file = self._raw = self._rotation.file_for(self._raw, len(data))
        return data


def _readable(body: Any) -> Any:
    """A raw body as JSON if it is JSON, else as text."""
    if not isinstance(body, bytes):
        return body
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")
