"""One item of a conversation, its ids, and OpenAI's form of it. Knows no job and no request."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from api.schema.response_items import (
    AnyItem,
    InputText,
    ItemCall,
    ItemMessage,
    ItemReasoning,
    ItemResult,
    ItemStatus,
    OutputText,
    ReasoningText,
)

SEPARATOR = "\n"  # between the parts of an item, as in a chat

Kind = Literal["message", "reasoning", "function_call", "function_call_output"]
_PREFIXES: Mapping[Kind, str] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
}
_OUTPUT = "o"  # before the number of an item of the output


class Item(msgspec.Struct, frozen=True):
    """A message, a thought, a call or its result; `parts` are its texts.

    The only part of a call are its arguments. A thought and a call are the assistant's, a result is
    the tool's; `call_id` is of the last two.
    """

    id: str
    role: str
    parts: tuple[str, ...]
    status: ItemStatus = "completed"
    kind: Kind = "message"
    call_id: str = ""
    name: str = ""

    @property
    def text(self) -> str:
        """What the template sees."""
        return SEPARATOR.join(self.parts)

    def view(self) -> AnyItem:
        """OpenAI's form."""
        match self.kind:
            case "message":
                return self._message()
            case "reasoning":
                thoughts = [ReasoningText(part) for part in self.parts]
                return ItemReasoning(id=self.id, content=thoughts, status=self.status)
            case "function_call":
                return ItemCall(
                    id=self.id,
                    call_id=self.call_id,
                    name=self.name,
                    arguments=self.text,
                    status=self.status,
                )
            case "function_call_output":
                pieces = [InputText(part) for part in self.parts]
                output = pieces if len(pieces) > 1 else self.text
                return ItemResult(
                    id=self.id, call_id=self.call_id, output=output, status=self.status
                )

    def _message(self) -> ItemMessage:
        kind = OutputText if self.role == "assistant" else InputText
        content = [kind(part) for part in self.parts]
        return ItemMessage(id=self.id, role=self.role, content=content, status=self.status)


class Cut(msgspec.Struct, frozen=True, array_like=True):
    """An item without its texts: the lengths of all parts but the last, in characters."""

    id: str
    role: str
    lengths: tuple[int, ...] = ()
    status: ItemStatus = "completed"
    kind: Kind = "message"

    @classmethod
    def of(cls, item: Item) -> "Cut":
        """What a job keeps of an item beside the messages."""
        return cls(item.id, item.role, tuple(map(len, item.parts[:-1])), item.status, item.kind)

    def parts(self, text: str) -> tuple[str, ...]:
        """The parts again that a text was joined of."""
        parts: list[str] = []
        start = 0
        for length in self.lengths:
            parts.append(text[start : start + length])
            start += length + len(SEPARATOR)
        return (*parts, text[start:])


def output_id(response_id: str, index: int = 0, kind: Kind = "message") -> str:
    """The id of item `index` of a response's output."""
    first = f"{_PREFIXES[kind]}_{response_id.partition('_')[2]}"
    return f"{first}_{_OUTPUT}{index}" if index else first


def input_id(response_id: str, index: int, kind: Kind = "message") -> str:
    """The id of an item that came in with a response's request."""
    return f"{output_id(response_id, kind=kind)}_{index}"


def response_id_of(item_id: str) -> str | None:
    """The response that an item belongs to, None if the id is none of ours."""
    prefix, _, rest = item_id.partition("_")
    code, _, index = rest.partition("_")
    is_item = index.removeprefix(_OUTPUT).isdigit() or rest == code
    is_ours = prefix in _PREFIXES.values() and is_code(code) and is_item
    return f"resp_{code}" if is_ours else None


def is_code(text: str) -> bool:
    """True for what follows the prefix in our ids: 32 hexadecimal digits."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")
