"""An Anthropic message is a view on its job: job and log events in, the message out, pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from api.anthropic.signature import packed
from api.errors import ApiError
from api.schema.anthropic_object import (
    Block,
    MessageObject,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    Usage,
)
from api.spoken import Part, Piece, Spoken
from workers import contract

_STOP_REASONS: Mapping[str, StopReason] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}


HIDES_THINKING = "hides_thinking"  # in a job's echo


class MessageView:
    """What the events so far have made of a message."""

    def __init__(self, job: contract.Job) -> None:
        self.failed: contract.Failed | None = None
        self.spoken = Spoken()
        self.usage = Usage(0, 0)
        self.hides_thinking = bool(job.echo.get(HIDES_THINKING))
        self._job = job
        self._stop_reason: StopReason | None = None
        self._stop_sequence: str | None = None

    def add(self, events: Iterable[contract.Event]) -> None:
        """Take in the next events of the log."""
        for event in events:
            if isinstance(event, contract.Tokens):
                for delta in event.deltas:
                    for piece in self.pieces(delta):
                        self.spoken.say(piece)
            else:
                self.note(event)

    def note(self, event: contract.Event) -> None:
        """Take in an event that says nothing."""
        if isinstance(event, contract.Started):
            self.usage = Usage(event.prompt_tokens, 0)
        elif isinstance(event, contract.Done):
            self.usage = Usage.of(event.usage, self.spoken.reasoning_tokens)
            is_cut = event.usage.completion_tokens < (self._job.sampling.max_tokens or 0)
            if self._stop_reason == "max_tokens" and is_cut:
                self._stop_reason = "model_context_window_exceeded"
        elif isinstance(event, contract.Failed):
            self.failed = event

    def pieces(self, delta: contract.Delta) -> Iterator[Piece]:
        """What one step made; each has to be said before the next is taken."""
        if delta.finish is not None:
            is_met = delta.finish == "stop" and delta.matched_stop is not None
            self._stop_reason = "stop_sequence" if is_met else _STOP_REASONS[delta.finish]
            self._stop_sequence = delta.matched_stop if is_met else None
        return self.spoken.pieces(delta)

    def check(self) -> None:
        """Raise the ApiError that the job ended with, if it did."""
        if self.failed is not None:
            raise ApiError.of(self.failed)

    def ending(self) -> dict[str, Any]:
        """Why it ended, as far as it has."""
        return {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}

    def response(self) -> MessageObject:
        """What has been said so far, as Anthropic's message."""
        return self._object([self.block(part) for part in self.spoken.parts], self.ending())

    def beginning(self) -> MessageObject:
        """The message before anything was said."""
        return self._object([], {"stop_reason": None, "stop_sequence": None})

    def block(self, part: Part, *, is_empty: bool = False) -> Block:
        """A part as it is, or as it began."""
        text = "" if is_empty else part.text
        if part.kind == "text":
            return TextBlock(text)
        if part.kind == "reasoning":
            shown = "" if self.hides_thinking else text
            return ThinkingBlock(shown, "" if is_empty else self.signature(part))
        assert part.call is not None
        return ToolUseBlock(part.call.id or "", part.call.name or "", _input(text))

    def signature(self, part: Part) -> str:
        """What clients have to have to give a thought back; we believe them without."""
        return packed(part.text) if self.hides_thinking else self._job.id

    def _object(self, content: list[Block], ending: dict[str, Any]) -> MessageObject:
        job = self._job
        return MessageObject(
            id=job.id, model=job.model, content=content, usage=self.usage, **ending
        )


def _input(arguments: str) -> dict[str, Any]:
    """A call's arguments; what is no JSON object, cut off perhaps, is kept as Anthropic advises."""
    try:
        return msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return {"INVALID_JSON": arguments}
