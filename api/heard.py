"""What one choice of a chat said beside its text, gathered from its deltas. Pure."""

from msgspec import UNSET

from api.schema.response import ChatMessage, FunctionCall, ToolCall
from workers.contract import CallDelta, Delta


class Heard:
    """Text, reasoning and tool calls of one choice."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[CallDelta, list[str]]] = []

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._texts)

    def add(self, delta: Delta) -> None:
        """Take in the next delta."""
        self._texts.append(delta.text)
        if delta.reasoning:
            self._reasoning.append(delta.reasoning)
        for call in delta.calls or ():
            if call.id is not None:
                self._calls.append((call, []))
            self._calls[call.index][1].append(call.arguments)

    def message(self) -> ChatMessage:
        """OpenAI's message."""
        calls = [_tool_call(first, arguments) for first, arguments in self._calls]
        return ChatMessage(
            (self.text or None) if calls else self.text,
            reasoning_content="".join(self._reasoning) or UNSET,
            tool_calls=calls or UNSET,
        )


def _tool_call(first: CallDelta, arguments: list[str]) -> ToolCall:
    return ToolCall(first.id or "", FunctionCall(first.name or "", "".join(arguments)))
