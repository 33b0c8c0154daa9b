"""The `input` of a Responses request: which items it may have, and what they say once checked.

Knows no HTTP, no template and no earlier response.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from api.errors import ApiError
from api.schema.needed import missing, needed

_TEXT_TYPES = ("input_text", "output_text", "text")


class InputPart(msgspec.Struct):
    """A piece of an item's content."""

    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(msgspec.Struct):
    """An item. Which fields it has depends on its type; those of others are ignored.

    A message comes in the easy form or the full one. An item that is nothing but an id refers to an
    earlier one.
    """

    type: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[InputPart] | None = None
    id: str | None = None
    call_id: str | None = None  # of a function_call and of its output
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None
    summary: list[InputPart] | None = None  # of reasoning

    @property
    def reference(self) -> str | None:
        """The id of the earlier item that this one stands for."""
        is_bare = self.type is None and self.role is None and self.content is None
        return self.id if self.type == "item_reference" or is_bare else None


class Message(msgspec.Struct, frozen=True):
    """An item of the input, checked; most are messages."""

    role: str
    parts: tuple[str, ...]
    kind: Literal["message", "reasoning", "function_call", "function_call_output"] = "message"
    call_id: str = ""
    name: str = ""


class Reference(msgspec.Struct, frozen=True):
    """An item of an earlier response; `param` is where the request names it."""

    item_id: str
    param: str


Given = Message | Reference


def given_items(items: Sequence[InputItem]) -> list[Given]:
    """The items in order, without thoughts that nobody can read. Raises ApiError."""
    read = [_read(item, f"input[{i}]") for i, item in enumerate(items)]
    given = [item for item in read if item is not None]
    if not given:
        what = "'input' has nothing that this server can read."
        raise ApiError("invalid_value", what, "input")
    return given


def _read(item: InputItem, param: str) -> Given | None:
    if item.reference is not None:
        return Reference(item.reference, f"{param}.id")
    match item.type:
        case None | "message":
            return _message(item, param)
        case "item_reference":
            raise missing(f"{param}.id")
        case "reasoning":
            return _reasoning(item, param)
        case "function_call":
            return _call(item, param)
        case "function_call_output":
            return _result(item, param)
    what = f"'{param}' has the type '{item.type[:40]}', which is not supported by this server."
    raise ApiError("unsupported_content", what, param)


def _message(item: InputItem, param: str) -> Message:
    role = needed(item.role, f"{param}.role")
    return Message(role, _texts(item.content, f"{param}.content"))


def _reasoning(item: InputItem, param: str) -> Message | None:
    """What was thought, else its summary; None if it is encrypted for somebody else."""
    field, parts = "content", item.content
    if not parts or isinstance(parts, str):
        field, parts = "summary", item.summary or []
    texts = [needed(part.text, f"{param}.{field}[{i}].text") for i, part in enumerate(parts)]
    return Message("assistant", tuple(texts), "reasoning") if any(texts) else None


def _call(item: InputItem, param: str) -> Message:
    call_id = needed(item.call_id, f"{param}.call_id")
    name = needed(item.name, f"{param}.name")
    arguments = needed(item.arguments, f"{param}.arguments")
    return Message("assistant", (arguments,), "function_call", call_id, name)


def _result(item: InputItem, param: str) -> Message:
    call_id = needed(item.call_id, f"{param}.call_id")
    texts = _texts(item.output, f"{param}.output")
    return Message("tool", texts, "function_call_output", call_id)


def _texts(content: str | list[InputPart] | None, param: str) -> tuple[str, ...]:
    if content is None:
        raise missing(param)
    if isinstance(content, str):
        return (content,)
    return tuple(_text(part, f"{param}[{i}]") for i, part in enumerate(content))


def _text(part: InputPart, param: str) -> str:
    if part.type not in (*_TEXT_TYPES, "refusal"):
        what = f"This model reads text only; '{param}' has the type '{part.type[:40]}'."
        raise ApiError("unsupported_content", what, param)
    field = "refusal" if part.type == "refusal" else "text"
    text: str | None = getattr(part, field)
    return needed(text, f"{param}.{field}")
