"""A response's events as OpenAI's named SSE frames, pure. Knows no HTTP, no Redis and no clock.

The `sequence_number`, which is also the SSE id, is a function of job and log alone, so that every
process numbers alike. What is the same in all deltas of an item is rendered once.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from api.errors import ApiError
from api.response.output import Growing
from api.response.view import ResponseView
from api.schema.response import ChatToken
from api.schema.response_items import ItemCall, OutputText, ReasoningText
from api.spoken import Piece
from api.stream import PING
from workers import contract

NOTHING_MISSING = 2**63  # a client that has every event there can be
_json = msgspec.json.Encoder().encode
# What the events about an item's text are called, without their ends.
_SAYING: Mapping[str, str] = {
    "message": "response.output_text",
    "reasoning": "response.reasoning_text",
    "function_call": "response.function_call_arguments",
}


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
        self._delta_head = self._delta_tail = b""  # of the item that grows

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
                for piece in self._view.pieces(delta):
                    self._say(piece)
            return
        is_silent = not self._view.output.items
        self._view.note(event)
        if isinstance(event, contract.Started):
            self._tell("in_progress", "in_progress")
        elif isinstance(event, contract.Done):
            if is_silent:
                self._open(self._view.output.items[-1])
            self._finish()
        elif isinstance(event, contract.Failed):
            self._fail(event)
        elif isinstance(event, contract.Retried):
            self._next += 1  # the number that the failure had

    def _say(self, piece: Piece) -> None:
        output = self._view.output
        if output.say(piece):
            if len(output.items) > 1:
                self._close(output.items[-2])
            self._open(output.items[-1])
        if piece.text:
            self._delta(piece, output.told)

    def _open(self, item: Growing) -> None:
        empty = item.view("in_progress")
        if isinstance(empty, ItemCall):
            empty = msgspec.structs.replace(empty, arguments="")
        else:
            empty = msgspec.structs.replace(empty, content=())
        self._emit("response.output_item.added", output_index=item.index, item=empty)
        if item.kind != "function_call":
            part = ReasoningText("") if item.kind == "reasoning" else OutputText("")
            self._emit("response.content_part.added", **_place(item), part=part)
        kind = f"{_SAYING[item.kind]}.delta".encode()
        self._delta_head = b'event: %b\nid: %%d\ndata: {"type":"%b"' % (kind, kind)
        self._delta_tail = b"," + _json(_place(item))[1:-1]

    def _delta(self, piece: Piece, told: Sequence[ChatToken]) -> None:
        """The same as `_emit` makes, only faster."""
        number = self._next
        self._next += 1
        if number <= self._after:
            return
        logprobs = b',"logprobs":%b' % _json(told) if piece.kind == "text" else b""
        self._frames.append(
            b'%b,"sequence_number":%d,"delta":%b%b%b}\n\n'
            % (self._delta_head % number, number, _json(piece.text), self._delta_tail, logprobs)
        )

    def _close(self, item: Growing) -> None:
        place, text = _place(item), item.part.text
        said: dict[str, Any] = {"text": text}
        if item.kind == "message":
            said["logprobs"] = item.logprobs
        elif item.kind == "function_call":
            said = {"arguments": text, "name": item.name}
        self._emit(f"{_SAYING[item.kind]}.done", **place, **said)
        if item.kind != "function_call":
            part = ReasoningText(text) if item.kind == "reasoning" else item.output_text()
            self._emit("response.content_part.done", **place, part=part)
        view = item.view(self._view.status_of(item))
        self._emit("response.output_item.done", output_index=item.index, item=view)

    def _finish(self) -> None:
        self._close(self._view.output.items[-1])
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


def _place(item: Growing) -> dict[str, Any]:
    """Where an item's text is; a call has but one."""
    place = {"item_id": item.id, "output_index": item.index}
    return place if item.kind == "function_call" else {**place, "content_index": 0}
