"""The body of Anthropic's POST /v1/messages and /v1/messages/count_tokens.

Knows no HTTP and no job. https://docs.anthropic.com/en/api/messages
"""

import secrets
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.errors import ApiError
from api.schema.needed import needed
from api.schema.sampling import MAX_STOP_LENGTH
from api.schema.tools import MAX_TOOLS
from workers import contract

_Text = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_LENGTH)]
_Fraction = Annotated[float, Meta(ge=0, le=1)]
_ToolName = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_.-]+$")]

_LACKING = ("mcp_servers", "container", "context_management", "output_format")


class Block(msgspec.Struct):
    """A piece of content. Which fields it has depends on its type; those of others are ignored."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None  # of a tool_use
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None  # of a tool_result
    content: "str | list[Block] | None" = None
    is_error: bool | None = None


Content = str | list[Block]


class Message(msgspec.Struct):
    """A turn of the conversation."""

    role: Literal["user", "assistant"]
    content: Content


class Tool(msgspec.Struct):
    """A tool of the client's; Anthropic's own, which have another type, are not here."""

    name: _ToolName
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None


class ToolChoice(msgspec.Struct):
    """What the model may or must do with the tools."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct):
    """Whether the model thinks first; a budget is not kept."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Meta(ge=1)] | None = None


class OutputConfig(msgspec.Struct):
    """How the answer is made; a `format` needs what is not here yet."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: Any = None


class Metadata(msgspec.Struct):
    """About the request."""

    user_id: Annotated[str, Meta(max_length=512)] | None = None


class CountRequest(msgspec.Struct, kw_only=True):
    """POST /v1/messages/count_tokens: a conversation."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    system: Content | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    mcp_servers: Any = None
    container: Any = None
    context_management: Any = None
    output_config: OutputConfig | None = None
    output_format: Any = None

    @property
    def max_calls(self) -> int | None:
        """Most tool calls of an answer; None: any number."""
        is_single = self.tool_choice is not None and self.tool_choice.disable_parallel_tool_use
        return 1 if is_single else None

    def template_kwargs(self) -> dict[str, Any]:
        """Variables for the chat template."""
        kwargs: dict[str, Any] = {}
        if self.thinking is not None:
            kwargs["enable_thinking"] = self.thinking.type != "disabled"
        if self.output_config is not None and self.output_config.effort is not None:
            kwargs["reasoning_effort"] = self.output_config.effort
        return kwargs

    def wire_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is shown. Raises ApiError."""
        choice = None if self.tool_choice is None else self.tool_choice.type
        if choice in ("any", "tool"):
            what = f"'tool_choice' '{choice}' is not supported by this server."
            raise ApiError("unsupported_parameter", what, "tool_choice")
        tools = [_wire_tool(tool, f"tools[{i}]") for i, tool in enumerate(self.tools or ())]
        names = [tool["function"]["name"] for tool in tools]
        if len(set(names)) < len(names):
            raise ApiError("invalid_value", "Tool names must be unique.", "tools")
        return [] if choice == "none" else tools

    def check(self) -> None:
        """Raise ApiError for a field that asks for what we lack."""
        lacking = {name: getattr(self, name) for name in _LACKING}
        if self.output_config is not None:
            lacking["output_config.format"] = self.output_config.format
        for name, value in lacking.items():
            if value:
                what = f"'{name}' is not supported by this server."
                raise ApiError("unsupported_parameter", what, name)


class MessagesRequest(CountRequest, kw_only=True):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    stop_sequences: Annotated[list[_Text], Meta(max_length=16)] | None = None
    temperature: _Fraction | None = None
    top_p: _Fraction | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    metadata: Metadata | None = None
    stream: bool | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    @property
    def tier(self) -> str | None:
        """OpenAI's name of the service tier."""
        return "default" if self.service_tier == "standard_only" else None

    def sampling(self) -> contract.Sampling:
        """What the sampler gets, with a seed that is drawn. Raises ApiError."""
        if self.top_p == 0:
            raise ApiError("invalid_value", "'top_p' must be greater than 0.", "top_p")
        return contract.Sampling(
            seed=secrets.randbits(63),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            stop=tuple(self.stop_sequences or ()),
        )

    def wire_metadata(self) -> dict[str, str]:
        """As a job keeps it."""
        user_id = None if self.metadata is None else self.metadata.user_id
        return {} if user_id is None else {"user_id": user_id}


def _wire_tool(tool: Tool, param: str) -> dict[str, Any]:
    """As a chat template sees it: in OpenAI's form."""
    if tool.type not in (None, "custom"):
        what = f"Tools of the type '{tool.type[:40]}' are not supported by this server."
        raise ApiError("unsupported_parameter", what, f"{param}.type")
    schema = needed(tool.input_schema, f"{param}.input_schema")
    function: dict[str, Any] = {"name": tool.name, "parameters": schema}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function}
