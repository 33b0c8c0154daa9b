"""The body of a Responses request, and the sampling, tools and format that it asks for.

Knows no HTTP, no template and no earlier response.
"""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from api.errors import ApiError
from api.schema.chat import Scalar, template_kwargs
from api.schema.response_input import Given, InputItem, Message, given_items
from api.schema.response_tools import FlatTools, TextFormat, wanted_flat
from api.schema.sampling import SamplingFields, TopLogprobs, _PositiveInt
from api.schema.structured import NAMES as STRUCTURED
from api.schema.tools import ToolChoice, Wanted
from workers import contract

_Name = Annotated[str, Meta(max_length=512)]

LOGPROBS = "message.output_text.logprobs"
# Known ways to ask for more in the answer; all but the first add nothing to ours.
_INCLUDABLE = (
    LOGPROBS,
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.action.sources",
    "web_search_call.results",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
)
# Fields that no answer of ours could honour.
REFUSED = (
    "conversation",
    "prompt",
    "context_management",
    "moderation",
    "access_programs",
    "max_tokens",
    "n",
    "best_of",
)


class TextConfig(msgspec.Struct):
    """What the text should look like."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(msgspec.Struct):
    """How the model should think; summaries are made by nobody here."""

    effort: Annotated[str, Meta(max_length=32)] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponsesRequest(SamplingFields, kw_only=True):
    """POST /v1/responses."""

    supported: ClassVar[frozenset[str]] = (STRUCTURED - {"response_format"}) | {
        *("tools", "tool_choice", "top_logprobs"),
    }

    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: _PositiveInt | None = None
    max_tool_calls: _PositiveInt | None = None
    background: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    tools: FlatTools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: TopLogprobs | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[str] | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    user: _Name | None = None
    safety_identifier: _Name | None = None
    prompt_cache_key: _Name | None = None
    chat_template_kwargs: dict[str, Scalar] | None = None
    enable_thinking: bool | None = None
    conversation: Any = None
    prompt: Any = None
    context_management: Any = None
    moderation: Any = None
    access_programs: Any = None

    @property
    def is_stored(self) -> bool:
        """True if the response can be retrieved afterwards."""
        return self.store is not False

    @property
    def format(self) -> TextFormat | None:
        """What the text must be."""
        return None if self.text is None else self.text.format

    @property
    def effort(self) -> str | None:
        """How much the model should think."""
        return None if self.reasoning is None else self.reasoning.effort

    def check(self) -> None:
        """Raise ApiError for what is not supported, or makes no sense together."""
        for field in REFUSED:
            if getattr(self, field) not in (None, [], {}):
                raise unsupported(field, f"'{field}' is not supported by this endpoint.")
        if self.truncation == "auto":
            raise unsupported("truncation", "This server never drops input: use 'disabled'.")
        if self.background and not self.is_stored:
            what = "A background response must be stored: 'store' cannot be false."
            raise ApiError("invalid_value", what, "store")
        self._check_text()
        self._check_include()

    def inputs(self) -> list[Given]:
        """The input's items in order. Raises ApiError."""
        if isinstance(self.input, str):
            return [Message("user", (self.input,))]
        return given_items(self.input)

    def job_sampling(self, vocab_size: int) -> contract.Sampling:
        """What the sampler gets. Raises ApiError."""
        return self.sampling(self.max_output_tokens, vocab_size)

    def num_logprobs(self) -> int | None:
        """As SamplingFields has it. Raises ApiError."""
        if LOGPROBS in (self.include or ()):
            return self.top_logprobs or 0
        if self.top_logprobs:
            what = f"'top_logprobs' needs '{LOGPROBS}' in 'include'."
            raise ApiError("invalid_value", what, "top_logprobs")
        return None

    def constraint(self) -> contract.Constraint | None:
        """What the answer must look like. Raises ApiError."""
        other = super().constraint()
        shape = None if self.format is None else self.format.constraint()
        if shape is not None and other is not None:
            what = f"'{shape.param}' and '{other.param}' exclude each other; ask in one way."
            raise ApiError("invalid_value", what, other.param.partition(".")[0])
        return shape or other

    def wanted_tools(self) -> Wanted:
        """The tools that the model may or must call. Raises ApiError."""
        wanted = wanted_flat(self.tools or (), self.tool_choice)
        wanted.check_beside(self.constraint())
        return wanted

    def template_kwargs(self) -> dict[str, Any]:
        """Extra variables for the chat template. Raises ApiError for a name that is taken."""
        return template_kwargs(self.chat_template_kwargs, self.enable_thinking, self.effort)

    def _check_text(self) -> None:
        if self.text is not None and self.text.verbosity not in (None, "medium"):
            what = "No model here knows 'text.verbosity'; leave it out and ask in words."
            raise unsupported("text.verbosity", what)

    def _check_include(self) -> None:
        for i, name in enumerate(self.include or ()):
            if name not in _INCLUDABLE:
                what = f"Invalid value for 'include[{i}]': '{name[:80]}'."
                raise ApiError("invalid_value", what, f"include[{i}]")


def unsupported(param: str, what: str) -> ApiError:
    """The error for a field that we know and do not support."""
    return ApiError("unsupported_parameter", what, param)
