"""The JSON that the API answers with: OpenAI's objects as Structs. Knows no HTTP and no job."""

from typing import Literal

import msgspec

from workers import contract


class PromptDetails(msgspec.Struct, frozen=True):
    """Where the prompt tokens came from."""

    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails

    @classmethod
    def of(cls, usage: contract.Usage) -> "Usage":
        """OpenAI's form of what the worker counted."""
        total = usage.prompt_tokens + usage.completion_tokens
        details = PromptDetails(usage.cached_tokens)
        return cls(usage.prompt_tokens, usage.completion_tokens, total, details)


class ChatTop(msgspec.Struct, frozen=True):
    """A token that might have been."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(msgspec.Struct, frozen=True):
    """A token of a chat's answer, its log-probability, and the most probable ones in its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatTop]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """The tokens of a chat's answer, or of a part of it."""

    content: list[ChatToken]
    refusal: None = None


class TextLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of a completion, in columns."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class FunctionDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of a function's call."""

    arguments: str
    name: str | None = None


class ToolCallDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of tool call `index`: the first has its id and name."""

    index: int
    function: FunctionDelta
    id: str | None = None
    type: str | None = None

    @classmethod
    def of(cls, call: contract.CallDelta) -> "ToolCallDelta":
        """OpenAI's form of what the worker wrote."""
        kind = None if call.id is None else "function"
        return cls(call.index, FunctionDelta(call.arguments, call.name), call.id, kind)


class FunctionCall(msgspec.Struct, frozen=True):
    """A function with the arguments that the model chose, as JSON if it wrote JSON."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True):
    """A call of a tool."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct, frozen=True):
    """What the assistant said, thought and called; no content if it only called."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: str | None = None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """One answer of a chat."""

    index: int
    message: ChatMessage
    finish_reason: str | None
    logprobs: ChatLogprobs | None = None


class TextChoice(msgspec.Struct, frozen=True):
    """One continuation of a prompt."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: TextLogprobs | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """What whole answers of both kinds have."""

    id: str
    created: int
    model: str
    usage: Usage | None
    system_fingerprint: str | None = None
    metadata: dict[str, str] | msgspec.UnsetType = msgspec.UNSET  # of one that was stored


class ChatCompletion(Completion, frozen=True, kw_only=True):
    """A whole answer of a chat."""

    choices: list[ChatChoice]
    object: Literal["chat.completion"] = "chat.completion"


class TextCompletion(Completion, frozen=True, kw_only=True):
    """Whole continuations of prompts."""

    choices: list[TextChoice]
    object: Literal["text_completion"] = "text_completion"


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A served model."""

    id: str
    created: int
    context_length: int
    max_model_len: int
    object: str = "model"
    owned_by: str = "tramontane"
    status: str = "loaded"
    task: contract.Task = "generate"

    @classmethod
    def of(cls, card: contract.ModelCard) -> "Model":
        """OpenAI's form of a model card."""
        length = card.context_length
        return cls(
            id=card.name,
            created=card.created_s,
            context_length=length,
            max_model_len=length,
            task=card.task,
        )


class ModelList(msgspec.Struct, frozen=True):
    """GET /v1/models."""

    data: list[Model]
    object: str = "list"
