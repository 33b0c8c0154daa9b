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
from api.schema.tools import (
    MAX_TOOLS,
    ChosenTool,
    FunctionSpec,
    Tool as NestedTool,
    ToolChoice as NestedChoice,
    Wanted,
    wanted_tools,
)
from workers import contract

_Text = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_LENGTH)]
_Fraction = Annotated[float, Meta(ge=0, le=1)]
_ToolName = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_.-]+$")]

_LACKING = ("mcp_servers", "container", "context_management", "compaction")


class Block(msgspec.Struct):
    """A piece of content. Which fields it has depends on its type; those of others are ignored."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None  # of a thinking
    id: str | None = None  # of a tool_use
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None  # of a tool_result
    content: "str | list[Block] | None" = None
    is_error: bool | None = None


Content = str | list[Block]


class Message(msgspec.Struct):
    """A turn of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: Content


class Tool(msgspec.Struct):
    """A tool of the client's; Anthropic's own, which have another type, are not here."""

    name: _ToolName
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None
    strict: bool | None = None

    def nested(self, param: str) -> NestedTool:
        """As a chat has it. Raises ApiError."""
        if self.type not in (None, "custom"):
            what = f"Tools of the type '{self.type[:40]}' are not supported by this server."
            raise ApiError("unsupported_parameter", what, f"{param}.type")
        schema = needed(self.input_schema, f"{param}.input_schema")
        spec = FunctionSpec(self.name, self.description, schema, self.strict)
        return NestedTool("function", spec)


class ToolChoice(msgspec.Struct):
    """What the model may or must do with the tools."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @property
    def nested(self) -> NestedChoice:
        """As a chat has it."""
        if self.type == "tool":
            return ChosenTool(type="function", name=self.name)
        return "required" if self.type == "any" else self.type


class Thinking(msgspec.Struct):
    """Whether the model thinks first; a budget is not kept."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Meta(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None  # nobody sums it up here


class OutputFormat(msgspec.Struct):
    """What the answer must look like."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct):
    """How the answer is made."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


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
    compaction: Any = None
    thread: Any = None  # a conversation that the server would have to keep
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # where `output_config.format` was at first

    @property
    def is_one_call(self) -> bool:
        """True if an answer may have one tool call at most."""
        choice = self.tool_choice
        return choice is not None and bool(choice.disable_parallel_tool_use)

    @property
    def hides_thinking(self) -> bool:
        """True if the client does not want to see what is thought."""
        return self.thinking is not None and self.thinking.display == "omitted"

    def template_kwargs(self) -> dict[str, Any]:
        """Variables for the chat template."""
        kwargs: dict[str, Any] = {}
        if self.thinking is not None:
            kwargs["enable_thinking"] = self.thinking.type in ("enabled", "adaptive")
        if self.output_config is not None and self.output_config.effort is not None:
            kwargs["reasoning_effort"] = self.output_config.effort
        return kwargs

    def wanted_tools(self) -> Wanted:
        """The tools that the model may or must call. Raises ApiError."""
        nested = [tool.nested(f"tools[{i}]") for i, tool in enumerate(self.tools or ())]
        choice = None if self.tool_choice is None else self.tool_choice.nested
        wanted = wanted_tools(nested, choice, name_at="name")
        wanted.check_beside(self.constraint())
        return wanted

    def constraint(self) -> contract.Constraint | None:
        """What the answer must look like. Raises ApiError."""
        newer = None if self.output_config is None else self.output_config.format
        if newer is not None and self.output_format is not None:
            what = "'output_format' is an older name of 'output_config.format'; give one of them."
            raise ApiError("invalid_value", what, "output_format")
        asked = newer or self.output_format
        if asked is None:
            return None
        param = "output_format" if newer is None else "output_config.format"
        return contract.Constraint("json_schema", asked.schema, f"{param}.schema")

    def check(self) -> None:
        """Raise ApiError for a field that asks for what we lack."""
        for name in _LACKING:
            if getattr(self, name):
                what = f"'{name}' is not supported by this server."
                raise ApiError("unsupported_parameter", what, name)
        if self.thread is not None:
            what = "This server keeps no threads: send the whole conversation."
            raise ApiError("thread_unsupported_request", what, "thread")


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
