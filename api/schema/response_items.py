"""Items of a response as the Responses endpoints show them: OpenAI's objects as Structs.

Knows no HTTP and no job.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from api.schema.response import ChatToken

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class InputText(msgspec.Struct, frozen=True, tag="input_text"):
    """A piece of what was put in."""

    text: str


class OutputText(msgspec.Struct, frozen=True, tag="output_text"):
    """A piece of what the assistant said, and its tokens if they were asked for."""

    text: str
    annotations: tuple[()] = ()
    logprobs: Sequence[ChatToken] = ()


class ReasoningText(msgspec.Struct, frozen=True, tag="reasoning_text"):
    """A piece of what the assistant thought."""

    text: str


class ItemMessage(msgspec.Struct, frozen=True, kw_only=True, tag="message"):
    """A message, of the input or of the output."""

    id: str
    role: str
    content: Sequence[InputText | OutputText]
    status: ItemStatus = "completed"


class ItemReasoning(msgspec.Struct, frozen=True, kw_only=True, tag="reasoning"):
    """What the assistant thought, word for word; nobody sums it up here."""

    id: str
    summary: tuple[()] = ()
    content: Sequence[ReasoningText]
    status: ItemStatus = "completed"


class ItemCall(msgspec.Struct, frozen=True, kw_only=True, tag="function_call"):
    """A call of a function; `arguments` are JSON if the model wrote JSON."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus = "completed"


class ItemResult(msgspec.Struct, frozen=True, kw_only=True, tag="function_call_output"):
    """What a function came to; several pieces are a list."""

    id: str
    call_id: str
    output: str | list[InputText]
    status: ItemStatus = "completed"


OutputItem = ItemMessage | ItemReasoning | ItemCall
AnyItem = OutputItem | ItemResult


class ItemList(msgspec.Struct, frozen=True):
    """GET /v1/responses/{id}/input_items; the ids are empty if the page is."""

    data: list[AnyItem]
    first_id: str
    last_id: str
    has_more: bool
    object: str = "list"
