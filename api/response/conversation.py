"""Items of a conversation, and how a job keeps them: text as messages, the rest as a short echo.

The text of a conversation lies in a job once, in `messages`, as the chat template sees it; the echo
says how to cut it into items again. Knows no HTTP, no Redis and no request.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from api.schema.response_object import InputText, ItemMessage, OutputText
from workers import contract

ENDPOINT = contract.RESPONSES
_SEPARATOR = "\n"  # between the parts of a message, as in a chat


class Item(msgspec.Struct, frozen=True):
    """One message of the conversation; `parts` are its texts."""

    id: str
    role: str
    parts: tuple[str, ...]
    status: str = "completed"

    @property
    def text(self) -> str:
        """What the template sees."""
        return _SEPARATOR.join(self.parts)

    def message(self) -> dict[str, Any]:
        """The message in a job."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.text}

    def view(self) -> ItemMessage:
        """OpenAI's form."""
        is_output = self.role == "assistant"
        content = [OutputText(p) for p in self.parts] if is_output else _inputs(self.parts)
        status: Any = self.status
        return ItemMessage(id=self.id, role=self.role, content=content, status=status)


class Cut(msgspec.Struct, frozen=True, array_like=True):
    """An item without its text: the lengths of all parts but the last, in characters."""

    id: str
    role: str
    lengths: tuple[int, ...] = ()
    status: str = "completed"


class Echo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a response says back about its request, and the job has no field for."""

    items: tuple[Cut, ...] = ()
    has_instructions: bool = False  # then they are the first message, before the items
    previous_response_id: str | None = None
    is_background: bool = False
    is_stored: bool = True
    max_tool_calls: int | None = None
    parallel_tool_calls: bool = True
    prompt_cache_key: str | None = None
    reasoning_effort: str | None = None
    reasoning_summary: str | None = None
    safety_identifier: str | None = None
    tool_choice: str = "auto"
    user: str | None = None


def is_response(job: contract.Job) -> bool:
    """True for a job that came in by the Responses endpoint."""
    return job.endpoint == ENDPOINT


def echo_of(job: contract.Job) -> Echo:
    """The echo in a job of ours."""
    return msgspec.convert(job.echo, Echo)


def cut(items: Iterable[Item]) -> tuple[Cut, ...]:
    """The echo's part of the items, whose messages go into the job."""
    return tuple(Cut(i.id, i.role, tuple(map(len, i.parts[:-1])), i.status) for i in items)


def instructions_of(job: contract.Job) -> str | None:
    """The request's own instructions."""
    return _messages(job)[0]["content"] if echo_of(job).has_instructions else None


def items_of(job: contract.Job) -> list[Item]:
    """Everything that was put in, oldest first: earlier turns too, instructions not."""
    echo = echo_of(job)
    messages = _messages(job)[1 if echo.has_instructions else 0 :]
    pairs = zip(echo.items, messages, strict=True)
    return [
        Item(c.id, c.role, _parts(message["content"], c.lengths), c.status) for c, message in pairs
    ]


def output_id(response_id: str) -> str:
    """The id of the one message that a response says."""
    return "msg_" + response_id.partition("_")[2]


def input_id(response_id: str, index: int) -> str:
    """The id of an item that came in with a response's request."""
    return f"{output_id(response_id)}_{index}"


def response_id_of(item_id: str) -> str | None:
    """The response that an item belongs to, None if the id is none of ours."""
    prefix, _, rest = item_id.partition("_")
    code, _, index = rest.partition("_")
    is_ours = prefix == "msg" and is_code(code) and (index.isdigit() or rest == code)
    return f"resp_{code}" if is_ours else None


def is_code(text: str) -> bool:
    """True for what follows the prefix in our ids: 32 hexadecimal digits."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def _messages(job: contract.Job) -> list[dict[str, Any]]:
    assert job.messages is not None
    return job.messages


def _inputs(parts: Sequence[str]) -> list[InputText]:
    return [InputText(part) for part in parts]


def _parts(text: str, lengths: Sequence[int]) -> tuple[str, ...]:
    parts: list[str] = []
    start = 0
    for length in lengths:
        parts.append(text[start : start + length])
        start += length + len(_SEPARATOR)
    return (*parts, text[start:])
