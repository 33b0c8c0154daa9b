"""A response's events as OpenAI's named SSE frames, pure. Knows no HTTP, no Redis and no clock.

The `sequence_number`, which is also the SSE id, is a function of job and log alone, so that every
process numbers alike. What is the same in all text deltas is rendered once.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from api.errors import ApiError
from api.response.view import ResponseView
from api.schema.response_object import OutputText
from api.stream import PING
from workers import contract

NOTHING_MISSING = 2**63  # a client that has every event there can be
_json = msgspec.json.Encoder().encode
_PLACE = {"output_index": 0}


class ResponseFrames:
    """Renders one client's stream of one response.

    `after` is the last sequence number that the client has. No `[DONE]` follows the last event:
    OpenAI has none here.
    """

    ping = PING

    def __init__(self, job: contract.Job, after: int = -1) -> None:
        self._view = ResponseView(job)
        self._after = after
        self._next = 0  # the number of the next event
        self._frames: list[bytes] = []
        self._is_begun = False
        part = _json({"item_id": self._view.item_id, **_PLACE, "content_index": 0})
        self._delta_tail = b"," + part[1:-1] + b',"logprobs":[]}\n\n'

    @property
    def last_number(self) -> int:
        """The number of the newest event that the log led to; rendered or not."""
        return self._next - 1

    def render(self, events: Iterable[contract.Event]) -> bytes:
        """The frames of these events, in one piece; those of the beginning come with any call."""
        if not self._is_begun:
            self._begin()
        for event in events:
            self._add(event)
        piece = b"".join(self._frames)
        self._frames.clear()
        return piece

    def _begin(self) -> None:
        """What every response begins with, whatever its log says by now."""
        self._is_begun = True
        is_background = self._view.is_background
        self._tell("created", "queued" if is_background else "in_progress")
        if is_background:
            self._tell("queued", "queued")

    def _add(self, event: contract.Event) -> None:
        if isinstance(event, contract.Tokens):
            for delta in event.deltas:
                self._view.say(delta)
                if delta.text:
                    self._say(delta.text)
            return
        self._view.add([event])
        if isinstance(event, contract.Started):
            self._start()
        elif isinstance(event, contract.Done):
            self._finish()
        elif isinstance(event, contract.Failed):
            self._fail(event)
        elif isinstance(event, contract.Retried):
            self._next += 1  # the number that the failure had

    def _start(self) -> None:
        self._tell("in_progress", "in_progress")
        item = msgspec.structs.replace(self._view.item(), content=[])
        self._emit("response.output_item.added", **_PLACE, item=item)
        self._emit("response.content_part.added", **self._part_place(), part=OutputText(""))

    def _say(self, text: str) -> None:
        """One delta; the same as `_emit` makes, only faster."""
        number = self._next
        self._next += 1
        if number > self._after:
            self._frames.append(
                b"event: response.output_text.delta\nid: %d\n"
                b'data: {"type":"response.output_text.delta","sequence_number":%d,"delta":%b%b'
                % (number, number, _json(text), self._delta_tail)
            )

    def _finish(self) -> None:
        text, place, item = self._view.text, self._part_place(), self._view.item()
        self._emit("response.output_text.done", **place, text=text, logprobs=())
        self._emit("response.content_part.done", **place, part=OutputText(text))
        self._emit("response.output_item.done", **_PLACE, item=item)
        self._emit(f"response.{self._view.status}", response=self._view.response())

    def _fail(self, failed: contract.Failed) -> None:
        """One event, whose number stays free if the failure is retried; also for a cancel."""
        if failed.offset >= 0:
            self._emit("response.failed", response=self._view.response())
            return
        # A failure that the log does not have has no number: the client may still go on after it.
        error = ApiError.of(failed).response().error
        body = {"type": "error", "sequence_number": self._next, "error": error}
        body |= {"code": failed.code, "message": failed.message, "param": failed.param}
        self._frames.append(b"event: error\ndata: %b\n\n" % _json(body))

    def _tell(self, name: str, status: Any) -> None:
        """An event with the response as it was when nothing was said."""
        self._emit(f"response.{name}", response=self._view.response(status=status, output=[]))

    def _emit(self, kind: str, **fields: Any) -> None:
        number = self._next
        self._next += 1
        if number > self._after:
            body = _json({"type": kind, "sequence_number": number, **fields})
            frame = b"event: %b\nid: %d\ndata: %b\n\n" % (kind.encode(), number, body)
            self._frames.append(frame)

    def _part_place(self) -> dict[str, Any]:
        return {"item_id": self._view.item_id, **_PLACE, "content_index": 0}
