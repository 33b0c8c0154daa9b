"""The body of a chat completion request, and the messages it puts into a job.

Knows no HTTP and no template.
"""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from api.errors import ApiError
from api.schema.needed import needed
from api.schema.sampling import SamplingFields, TopLogprobs, _PositiveInt
from api.schema.structured import NAMES as STRUCTURED
from api.schema.tools import ToolChoice, Tools, Wanted, wanted_tools

Scalar = str | int | float | bool | None

# Names that a chat template gets from us.
_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "tokenize"})


class Part(msgspec.Struct):
    """A piece of a message's content."""

    type: str
    text: str | None = None
    refusal: str | None = None


class Function(msgspec.Struct):
    """The function of an earlier tool call; `arguments` is JSON as text."""

    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct):
    """A tool call in an earlier answer of the assistant."""

    function: Function
    id: str = ""
    type: str = "function"


class Message(msgspec.Struct):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class ChatRequest(SamplingFields, kw_only=True):
    """POST /v1/chat/completions."""

    supported: ClassVar[frozenset[str]] = STRUCTURED | {
        *("logprobs", "top_logprobs", "continue_final_message", "tools", "tool_choice"),
    }

    messages: str | Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: _PositiveInt | None = None
    chat_template_kwargs: dict[str, Scalar] | None = None
    enable_thinking: bool | None = None
    reasoning_effort: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    store: bool | None = None

    @property
    def token_limit(self) -> int | None:
        """Most tokens per choice; None: as many as the context holds."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def num_logprobs(self) -> int | None:
        """As SamplingFields has it. Raises ApiError."""
        if self.logprobs:
            return self.top_logprobs or 0
        if self.top_logprobs:
            what = "'top_logprobs' needs 'logprobs' to be true."
            raise ApiError("invalid_value", what, "top_logprobs")
        return None

    def wire_messages(self) -> list[dict[str, Any]]:
        """The messages as the template sees them: content is text. Raises ApiError."""
        if isinstance(self.messages, str):
            return [{"role": "user", "content": self.messages}]
        return [_wire(message, f"messages[{i}]") for i, message in enumerate(self.messages)]

    def template_kwargs(self) -> dict[str, Any]:
        """Extra variables for the chat template. Raises ApiError for a name that is taken."""
        kwargs = template_kwargs(
            self.chat_template_kwargs, self.enable_thinking, self.reasoning_effort
        )
        if self.add_generation_prompt is not None:
            kwargs["add_generation_prompt"] = self.add_generation_prompt
        return kwargs

    def wanted_tools(self) -> Wanted:
        """The tools that the model may or must call. Raises ApiError."""
        wanted = wanted_tools(self.tools, self.tool_choice)
        wanted.check_beside(self.constraint())
        return wanted

    def continues_message(self) -> bool:
        """True if the last message is the answer's beginning. Raises ApiError if it cannot be."""
        if not self.continue_final_message:
            return False
        if self.add_generation_prompt:
            what = "'continue_final_message' and 'add_generation_prompt' exclude each other."
            raise ApiError("invalid_value", what, "continue_final_message")
        if isinstance(self.messages, str) or self.messages[-1].role != "assistant":
            what = "'continue_final_message' needs a last message of the assistant."
            raise ApiError("invalid_value", what, "messages")
        return True


def template_kwargs(
    extra: dict[str, Scalar] | None, enable_thinking: bool | None, reasoning_effort: str | None
) -> dict[str, Any]:
    """Variables for the chat template. Raises ApiError for a name that is taken."""
    kwargs: dict[str, Any] = dict(extra or {})
    for name in kwargs:
        if name in _RESERVED or not name.isidentifier():
            raise ApiError(
                "invalid_value",
                f"'{name}' cannot be a chat template variable.",
                "chat_template_kwargs",
            )
    if enable_thinking is not None:
        kwargs["enable_thinking"] = enable_thinking
    if reasoning_effort is not None:
        kwargs["reasoning_effort"] = reasoning_effort
    if reasoning_effort == "none":  # templates have a switch, and few of them know this word
        kwargs.setdefault("enable_thinking", False)
    return kwargs


def _wire(message: Message, param: str) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    wire: dict[str, Any] = {"role": role, "content": _content(message, param)}
    if message.name is not None:
        wire["name"] = message.name
    if message.tool_calls:
        wire["tool_calls"] = msgspec.to_builtins(message.tool_calls)
    if message.reasoning_content:
        wire["reasoning_content"] = message.reasoning_content
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    return wire


def _content(message: Message, param: str) -> str:
    param = f"{param}.content"
    if isinstance(message.content, str):
        return message.content
    if message.content is None:
        if message.role == "assistant":
            return ""
        raise ApiError(
            "invalid_type", f"Invalid value for '{param}': expected text, got null.", param
        )
    return "\n".join(_text(part, f"{param}[{i}]") for i, part in enumerate(message.content))


def _text(part: Part, param: str) -> str:
    if part.type not in ("text", "input_text", "refusal"):
        raise ApiError(
            "unsupported_content",
            f"This model reads text only; '{param}' has the type '{part.type[:40]}'.",
            param,
        )
    field = "refusal" if part.type == "refusal" else "text"
    text: str | None = getattr(part, field)
    return needed(text, f"{param}.{field}")
