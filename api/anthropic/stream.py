"""A message's events as Anthropic's named SSE frames, pure. Knows no HTTP, no Redis and no clock.

Frames are numbered from 0 on by job and log alone, so that every process numbers alike and a client
goes on behind any of them. https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from api.anthropic.errors import error_object
from api.anthropic.view import MessageView
from api.errors import ApiError
from api.spoken import Piece
from api.stream import PING
from workers import contract

_json = msgspec.json.Encoder().encode
_PING_EVENT = b'event: ping\ndata: {"type": "ping"}\n\n'
# Per kind of block: the head of a delta, whose value follows.
_DELTAS = {
    "text": b'{"type":"text_delta","text":',
    "reasoning": b'{"type":"thinking_delta","thinking":',
    "call": b'{"type":"input_json_delta","partial_json":',
}


class MessageFrames:
    """Renders one client's stream of one message; `after` is the last number that it has."""

    def __init__(self, job: contract.Job, after: int = -1) -> None:
        self._view = MessageView(job)
        self._request_id = job.request_id or None
        self._after = after
        self._next = 0
        self._is_begun = False
        self._frames: list[bytes] = []

    @property
    def last_number(self) -> int:
        """The number of the newest frame that the log led to; rendered or not."""
        return self._next - 1

    @property
    def ping(self) -> bytes:
        """What keeps the stream alive: a comment until it has begun with its first event."""
        return _PING_EVENT if self._is_begun else PING

    def render(self, events: Iterable[contract.Event]) -> bytes:
        """The frames of these events, in one piece; empty if there is nothing to show."""
        for event in events:
            self._add(event)
        piece = b"".join(self._frames)
        self._frames.clear()
        return piece

    def _add(self, event: contract.Event) -> None:
        if isinstance(event, contract.Tokens):
            for delta in event.deltas:
                for piece in self._view.pieces(delta):
                    self._say(piece)
            return
        self._view.note(event)
        if isinstance(event, contract.Started):
            self._is_begun = True
            self._emit("message_start", message=self._view.beginning())
        elif isinstance(event, contract.Done):
            self._finish()
        elif isinstance(event, contract.Failed):
            self._fail(event)
        elif isinstance(event, contract.Retried):
            self._next += 1  # the number that the failure had

    def _say(self, piece: Piece) -> None:
        spoken = self._view.spoken
        if spoken.say(piece):
            last = len(spoken.parts) - 1
            if last:
                self._close(last - 1)
            block = self._view.block(spoken.parts[last], is_empty=True)
            self._emit("content_block_start", index=last, content_block=block)
        if piece.text and not (piece.kind == "reasoning" and self._view.hides_thinking):
            self._delta(piece)

    def _close(self, index: int) -> None:
        part = self._view.spoken.parts[index]
        if part.kind == "reasoning":
            delta = {"type": "signature_delta", "signature": self._view.signature(part)}
            self._emit("content_block_delta", index=index, delta=delta)
        self._emit("content_block_stop", index=index)

    def _delta(self, piece: Piece) -> None:
        """The same as `_emit` makes, only faster."""
        number = self._next
        self._next += 1
        if number > self._after:
            self._frames.append(
                b"event: content_block_delta\nid: %d\n"
                b'data: {"type":"content_block_delta","index":%d,"delta":%b%b}}\n\n'
                % (number, len(self._view.spoken.parts) - 1, _DELTAS[piece.kind], _json(piece.text))
            )

    def _finish(self) -> None:
        view = self._view
        if view.spoken.parts:
            self._close(len(view.spoken.parts) - 1)
        self._emit("message_delta", delta=view.ending(), usage=view.usage)
        self._emit("message_stop")

    def _fail(self, failed: contract.Failed) -> None:
        """One event, whose number stays free if the failure is retried."""
        error = error_object(ApiError.of(failed), self._request_id)
        if failed.offset >= 0:
            self._put("error", _json(error))
        else:  # a failure that the log does not have: the client may still go on after it
            self._frames.append(b"event: error\ndata: %b\n\n" % _json(error))

    def _emit(self, kind: str, **fields: Any) -> None:
        self._put(kind, _json({"type": kind, **fields}))

    def _put(self, kind: str, body: bytes) -> None:
        number = self._next
        self._next += 1
        if number > self._after:
            frame = b"event: %b\nid: %d\ndata: %b\n\n" % (kind.encode(), number, body)
            self._frames.append(frame)
