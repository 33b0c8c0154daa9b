"""Anthropic's objects: a message, its blocks, an error. Knows no job."""

from typing import Any, Literal

import msgspec

from workers import contract

StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]


class TextBlock(msgspec.Struct, frozen=True, tag="text"):
    """What is said."""

    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, tag="thinking"):
    """What is thought, and what a client gives back with it."""

    thinking: str
    signature: str


class ToolUseBlock(msgspec.Struct, frozen=True, tag="tool_use"):
    """A call of a tool."""

    id: str
    name: str
    input: dict[str, Any]


Block = TextBlock | ThinkingBlock | ToolUseBlock


class OutputDetails(msgspec.Struct, frozen=True):
    """What the output tokens were for."""

    thinking_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Tokens; those of the prompt are the sum of the three that begin with or contain `input`."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    output_tokens_details: OutputDetails | msgspec.UnsetType = msgspec.UNSET  # once it is over

    @classmethod
    def of(cls, usage: contract.Usage, thinking_tokens: int) -> "Usage":
        """Anthropic's form of our counts."""
        fresh = usage.prompt_tokens - usage.cached_tokens
        details = OutputDetails(thinking_tokens)
        return cls(
            fresh, usage.completion_tokens, usage.cached_tokens, output_tokens_details=details
        )


class MessageObject(msgspec.Struct, frozen=True, kw_only=True, tag="message"):
    """An answer."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Block]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: Usage


class Count(msgspec.Struct, frozen=True):
    """The answer of count_tokens."""

    input_tokens: int


class ErrorDetails(msgspec.Struct, frozen=True):
    """What a client needs to know to go on without what is not supported."""

    error_code: str
    unsupported: list[str]


class ErrorBody(msgspec.Struct, frozen=True):
    """What went wrong, in Anthropic's words for it."""

    type: str
    message: str
    details: ErrorDetails | msgspec.UnsetType = msgspec.UNSET


class ErrorObject(msgspec.Struct, frozen=True, tag="error"):
    """The body of an error, and the data of a stream's error event."""

    error: ErrorBody
    request_id: str | None = None
