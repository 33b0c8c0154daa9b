"""How a job keeps a conversation: text as messages, the rest as a short echo.

The text of a conversation lies in a job once, in `messages`, as the chat template sees it; the echo
says how to cut it into items again. Knows no HTTP, no Redis and no request.
"""

from typing import Any

import msgspec

from api.response.item import Cut, Item
from api.response.turns import items_in
from workers import contract

ENDPOINT = contract.RESPONSES


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
    text_format: dict[str, Any] = {}  # without the schema, which is the job's constraint
    tool_choice: str | dict[str, Any] = "auto"
    tools: tuple[dict[str, Any], ...] = ()  # all, also those that the model is not shown
    user: str | None = None


def is_response(job: contract.Job) -> bool:
    """True for a job that came in by the Responses endpoint."""
    return job.endpoint == ENDPOINT


def echo_of(job: contract.Job) -> Echo:
    """The echo in a job of ours."""
    return msgspec.convert(job.echo, Echo)


def instructions_of(job: contract.Job) -> str | None:
    """The request's own instructions."""
    return _messages(job)[0]["content"] if echo_of(job).has_instructions else None


def items_of(job: contract.Job) -> list[Item]:
    """Everything that was put in, oldest first: earlier turns too, instructions not."""
    echo = echo_of(job)
    return items_in(_messages(job)[1 if echo.has_instructions else 0 :], echo.items)


def _messages(job: contract.Job) -> list[dict[str, Any]]:
    assert job.messages is not None
    return job.messages
