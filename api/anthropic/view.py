"""An Anthropic message is a view on its job: job and log events in, the message out, pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

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
from workers import contract

_STOP_REASONS: Mapping[str, StopReason] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}


class Piece(NamedTuple):
    """A piece of a block; `call` is that of a tool_use."""

    kind: Literal["thinking", "text", "tool_use"]
    text: str
    call: contract.CallDelta | None = None


class OpenBlock:
    """A block that grows."""

    def __init__(self, first: Piece) -> None:
        self.kind = first.kind
        self.call = first.call
        self.texts: list[str] = []

    def takes(self, piece: Piece) -> bool:
        """True if the piece belongs to this block; a call's first piece has its id."""
        return piece.kind == self.kind and (piece.call is None or piece.call.id is None)

    def empty(self) -> Block:
        """The block as it begins."""
        return self._block("")

    def block(self) -> Block:
        """The block so far."""
        return self._block("".join(self.texts))

    def _block(self, text: str) -> Block:
        if self.kind == "text":
            return TextBlock(text)
        if self.kind == "thinking":
            return ThinkingBlock(text)
        assert self.call is not None
        return ToolUseBlock(self.call.id or "", self.call.name or "", _input(text))


class MessageView:
    """What the events so far have made of a message."""

    def __init__(self, job: contract.Job) -> None:
        self.failed: contract.Failed | None = None
        self.blocks: list[OpenBlock] = []
        self.usage = Usage(0, 0)
        self._job = job
        self._stop_reason: StopReason | None = None
        self._stop_sequence: str | None = None

    def add(self, events: Iterable[contract.Event]) -> None:
        """Take in the next events of the log."""
        for event in events:
            if isinstance(event, contract.Tokens):
                for delta in event.deltas:
                    for piece in self.pieces(delta):
                        self.say(piece)
            else:
                self.note(event)

    def note(self, event: contract.Event) -> None:
        """Take in an event that says nothing."""
        if isinstance(event, contract.Started):
            self.usage = Usage(event.prompt_tokens, 0)
        elif isinstance(event, contract.Done):
            self.usage = Usage.of(event.usage)
        elif isinstance(event, contract.Failed):
            self.failed = event

    def pieces(self, delta: contract.Delta) -> Iterator[Piece]:
        """What one step made, in the order in which it is said."""
        if delta.finish is not None:
            is_met = delta.finish == "stop" and delta.matched_stop is not None
            self._stop_reason = "stop_sequence" if is_met else _STOP_REASONS[delta.finish]
            self._stop_sequence = delta.matched_stop if is_met else None
        if delta.reasoning:
            yield Piece("thinking", delta.reasoning)
        if delta.text:
            yield Piece("text", delta.text)
        for call in delta.calls or ():
            yield Piece("tool_use", call.arguments, call)

    def say(self, piece: Piece) -> bool:
        """Put a piece where it belongs; true if it began a block."""
        begins = not self.blocks or not self.blocks[-1].takes(piece)
        if begins:
            self.blocks.append(OpenBlock(piece))
        self.blocks[-1].texts.append(piece.text)
        return begins

    def check(self) -> None:
        """Raise the ApiError that the job ended with, if it did."""
        if self.failed is not None:
            raise ApiError.of(self.failed)

    def ending(self) -> dict[str, Any]:
        """Why it ended, as far as it has."""
        return {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}

    def response(self) -> MessageObject:
        """What has been said so far, as Anthropic's message."""
        return self._object([block.block() for block in self.blocks], self.ending())

    def beginning(self) -> MessageObject:
        """The message before anything was said."""
        return self._object([], {"stop_reason": None, "stop_sequence": None})

    def _object(self, content: list[Block], ending: dict[str, Any]) -> MessageObject:
        job = self._job
        return MessageObject(
            id=job.id, model=job.model, content=content, usage=self.usage, **ending
        )


def _input(arguments: str) -> dict[str, Any]:
    """A call's arguments; what is no JSON object, cut off perhaps, is kept as Anthropic advises."""
    try:
        return msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except msgspec.MsgspecError:
        return {"INVALID_JSON": arguments}
