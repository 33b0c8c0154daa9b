"""The body of a Responses request, and the items and sampling that it asks for.

Knows no HTTP, no template and no earlier response.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.errors import ApiError
from api.schema.chat import Scalar, template_kwargs
from api.schema.sampling import SamplingFields, _PositiveInt
from workers import contract

MAX_REFERENCES = 64

_Name = Annotated[str, Meta(max_length=512)]

_TEXT_TYPES = ("input_text", "output_text", "text")
# Known ways to ask for more in the answer; these add nothing to a plain text answer.
_INCLUDABLE = (
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


class InputPart(msgspec.Struct):
    """A piece of an item's content."""

    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(msgspec.Struct):
    """A message, in the easy form or the full one, or a reference to an earlier item."""

    type: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[InputPart] | None = None
    id: str | None = None

    @property
    def reference(self) -> str | None:
        """The id of the earlier item that this one stands for."""
        is_bare = self.type is None and self.role is None and self.content is None
        return self.id if self.type == "item_reference" or is_bare else None


class Message(msgspec.Struct, frozen=True):
    """A message of the input, checked."""

    role: str
    parts: tuple[str, ...]


class Reference(msgspec.Struct, frozen=True):
    """An item of an earlier response; `param` is where the request names it."""

    item_id: str
    param: str


class TextConfig(msgspec.Struct):
    """What the text should look like."""

    format: Any = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(msgspec.Struct):
    """How the model should think; summaries are made by nobody here."""

    effort: Annotated[str, Meta(max_length=32)] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponsesRequest(SamplingFields, kw_only=True):
    """POST /v1/responses."""

    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: _PositiveInt | None = None
    max_tool_calls: _PositiveInt | None = None
    background: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    parallel_tool_calls: bool | None = None
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

    def inputs(self) -> list[Message | Reference]:
        """The input's items in order. Raises ApiError."""
        if isinstance(self.input, str):
            return [Message("user", (self.input,))]
        items = [_checked(item, f"input[{i}]") for i, item in enumerate(self.input)]
        if sum(isinstance(item, Reference) for item in items) > MAX_REFERENCES:
            what = f"'input' has more than {MAX_REFERENCES} references."
            raise ApiError("invalid_value", what, "input")
        return items

    def job_sampling(self, vocab_size: int) -> contract.Sampling:
        """What the sampler gets. Raises ApiError."""
        return self.sampling(self.max_output_tokens, vocab_size)

    def template_kwargs(self) -> dict[str, Any]:
        """Extra variables for the chat template. Raises ApiError for a name that is taken."""
        return template_kwargs(self.chat_template_kwargs, self.enable_thinking, self.effort)

    def _check_text(self) -> None:
        if self.text is None:
            return
        if self.text.format not in (None, {}, {"type": "text"}):
            raise unsupported("text.format", "Only text.format.type 'text' is supported.")
        if self.text.verbosity not in (None, "medium"):
            raise unsupported("text.verbosity", "Only text.verbosity 'medium' is supported.")

    def _check_include(self) -> None:
        for i, name in enumerate(self.include or ()):
            if name == "message.output_text.logprobs":
                raise unsupported(f"include[{i}]", "Log probabilities are not supported.")
            if name not in _INCLUDABLE:
                what = f"Invalid value for 'include[{i}]': '{name[:80]}'."
                raise ApiError("invalid_value", what, f"include[{i}]")


def unsupported(param: str, what: str) -> ApiError:
    """The error for a field that we know and do not support."""
    return ApiError("unsupported_parameter", what, param)


def _checked(item: InputItem, param: str) -> Message | Reference:
    if item.reference is not None:
        return Reference(item.reference, f"{param}.id")
    if item.type not in (None, "message"):
        what = f"'{param}' has the type '{item.type[:40]}'; this server takes messages only."
        raise ApiError("unsupported_content", what, param)
    if item.role is None:
        raise _missing(f"{param}.role")
    if item.content is None:
        raise _missing(f"{param}.content")
    if isinstance(item.content, str):
        return Message(item.role, (item.content,))
    where = f"{param}.content"
    return Message(item.role, tuple(_text(p, f"{where}[{i}]") for i, p in enumerate(item.content)))


def _text(part: InputPart, param: str) -> str:
    if part.type not in (*_TEXT_TYPES, "refusal"):
        what = f"This model reads text only; '{param}' has the type '{part.type[:40]}'."
        raise ApiError("unsupported_content", what, param)
    field = "refusal" if part.type == "refusal" else "text"
    text: str | None = getattr(part, field)
    if text is None:
        raise _missing(f"{param}.{field}")
    return text


def _missing(param: str) -> ApiError:
    return ApiError("missing_required_parameter", f"Missing required parameter: '{param}'.", param)
