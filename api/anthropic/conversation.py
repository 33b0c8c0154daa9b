"""Anthropic's turns and blocks as the messages of a job, which a chat template sees. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from api.anthropic.signature import unpacked
from api.errors import ApiError
from api.schema.anthropic import Block, Content, CountRequest
from api.schema.needed import needed
from api.tool_results import unmatched

_SEPARATOR = "\n"  # between the parts of a message, as in a chat
_PICTURES = ("image", "document", "file")


def wire_messages(request: CountRequest) -> list[dict[str, Any]]:
    """The conversation, the system prompt first. Raises ApiError.

    Turns of one role that follow each other are one turn, as with Anthropic.
    """
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": _text(request.system, "system")})
    for i, message in enumerate(request.messages):
        param = f"messages[{i}].content"
        if message.role == "system":
            messages.append({"role": "system", "content": _text(message.content, param)})
            continue
        turn = _User(param) if message.role == "user" else _Assistant(param)
        for wire in turn.messages(_blocks(message.content)):
            _append(messages, wire)
    _check_calls(messages)
    return messages


def continues_message(request: CountRequest) -> bool:
    """True if the answer goes on with a last turn of the assistant. Raises ApiError."""
    last, param = request.messages[-1], f"messages[{len(request.messages) - 1}]"
    if last.role != "assistant":
        return False
    if request.constraint() is not None:
        what = "An answer that has to follow a schema cannot begin with a turn of the assistant."
        raise ApiError("invalid_value", what, param)
    return True


def _check_calls(messages: Iterable[Mapping[str, Any]]) -> None:
    calls, results = unmatched(messages)
    if results:
        what = f"There is no 'tool_use' block '{results[0][:80]}' before its 'tool_result'."
        raise ApiError("invalid_value", what, "messages")
    if calls:
        what = f"The 'tool_result' block of the 'tool_use' '{calls[0][:80]}' is missing."
        raise ApiError("invalid_value", what, "messages")


def _append(messages: list[dict[str, Any]], wire: dict[str, Any]) -> None:
    last = messages[-1] if messages else {}
    is_same = last.get("role") == wire["role"] != "tool" and "tool_calls" not in last
    if not is_same:
        messages.append(wire)
        return
    texts: dict[str, Any] = {
        name: _SEPARATOR.join(filter(None, (last.get(name), wire.get(name))))
        for name in ("content", "reasoning_content")
        if name in last or name in wire
    }
    messages[-1] = {**last, **wire, **texts}


class _User:
    """A user's turn: results of tools are messages of their own, in their order."""

    def __init__(self, param: str) -> None:
        self._param = param

    def messages(self, blocks: Sequence[Block]) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        for i, block in enumerate(blocks):
            param = f"{self._param}[{i}]"
            if block.type == "tool_result":
                messages.append(_result(block, param))
            else:
                _append(messages, {"role": "user", "content": _text_of(block, param)})
        return messages or [{"role": "user", "content": ""}]


class _Assistant:
    """An earlier answer: text, what was thought before it, and calls of tools."""

    def __init__(self, param: str) -> None:
        self._param = param

    def messages(self, blocks: Sequence[Block]) -> list[dict[str, Any]]:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        for i, block in enumerate(blocks):
            param = f"{self._param}[{i}]"
            if block.type == "tool_use":
                calls.append(_call(block, param))
            elif block.type == "thinking":
                thought = needed(block.thinking, f"{param}.thinking")
                thoughts.append(thought or unpacked(block.signature or ""))
            elif block.type != "redacted_thinking":  # nobody but its maker can read that
                texts.append(_text_of(block, param))
        wire: dict[str, Any] = {"role": "assistant", "content": _SEPARATOR.join(texts)}
        if any(thoughts):
            wire["reasoning_content"] = _SEPARATOR.join(thoughts)
        return [{**wire, "tool_calls": calls} if calls else wire]


def _call(block: Block, param: str) -> dict[str, Any]:
    name = needed(block.name, f"{param}.name")
    arguments = msgspec.json.encode(block.input or {}).decode()
    return {
        "id": needed(block.id, f"{param}.id"),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _result(block: Block, param: str) -> dict[str, Any]:
    text = "" if block.content is None else _text(block.content, f"{param}.content")
    return {
        "role": "tool",
        "tool_call_id": needed(block.tool_use_id, f"{param}.tool_use_id"),
        "content": f"Error: {text}" if block.is_error else text,
    }


def _blocks(content: Content) -> list[Block]:
    return [Block("text", text=content)] if isinstance(content, str) else content


def _text(content: Content, param: str) -> str:
    if isinstance(content, str):
        return content
    return _SEPARATOR.join(_text_of(block, f"{param}[{i}]") for i, block in enumerate(content))


def _text_of(block: Block, param: str) -> str:
    if block.type in _PICTURES:
        what = f"This model reads text only; '{param}' has the type '{block.type}'."
        raise ApiError("unsupported_content", what, param)
    if block.type != "text":
        what = f"'{param}' cannot have the type '{block.type[:40]}' here."
        raise ApiError("unsupported_content", what, param)
    return needed(block.text, f"{param}.text")
