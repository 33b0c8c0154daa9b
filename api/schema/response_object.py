"""The JSON that the Responses endpoints answer with: OpenAI's objects as Structs.

Knows no HTTP and no job.
"""

from typing import Any, Literal

import msgspec

from api.schema.response_items import OutputItem
from workers import contract

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class ResponseError(msgspec.Struct, frozen=True):
    """Why a response failed: `code` is one of OpenAI's few, `type` our own code."""

    code: str
    message: str
    type: str
    param: str | None = None


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why a response is not complete."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class InputDetails(msgspec.Struct, frozen=True):
    """Where the input tokens came from."""

    cached_tokens: int
    cache_write_tokens: int = 0  # OpenAI bills them; we do not


class OutputDetails(msgspec.Struct, frozen=True):
    """What the output tokens were for."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    """Token counts of a response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int

    @classmethod
    def of(cls, usage: contract.Usage, reasoning_tokens: int) -> "ResponseUsage":
        """OpenAI's form of what the worker counted."""
        return cls(
            usage.prompt_tokens,
            InputDetails(usage.cached_tokens),
            usage.completion_tokens,
            OutputDetails(reasoning_tokens),
            usage.prompt_tokens + usage.completion_tokens,
        )


class Reasoning(msgspec.Struct, frozen=True):
    """How the model was asked to think."""

    effort: str | None = None
    summary: str | None = None


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True):
    """A response at one moment of its life."""

    id: str
    object: str = "response"
    created_at: int
    status: Status
    background: bool
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    reasoning: Reasoning = Reasoning()
    safety_identifier: str | None = None
    service_tier: str
    store: bool
    temperature: float | None = None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any] = "auto"
    tools: tuple[dict[str, Any], ...] = ()
    top_logprobs: int = 0
    top_p: float | None = None
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    user: str | None = None


class Deleted(msgspec.Struct, frozen=True):
    """DELETE /v1/responses/{id}."""

    id: str
    object: str = "response"
    deleted: bool = True


class InputCount(msgspec.Struct, frozen=True):
    """POST /v1/responses/input_tokens."""

    input_tokens: int
    object: str = "response.input_tokens"
