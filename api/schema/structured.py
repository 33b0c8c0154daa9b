"""What a request wants its answer to look like, in all the ways that clients ask for it.

Reads OpenAI's `response_format`, mistral.rs' `grammar` and vLLM's `structured_outputs` and
`guided_…`. Knows no grammar: whether one can be followed, a worker finds out.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import Meta

from api.errors import ApiError
from api.schema.decode import invalid
from api.schema.needed import needed
from workers.contract import Constraint

T = TypeVar("T")

MAX_CHOICES = 1024
FIELDS = ("response_format", "grammar", "structured_outputs")
GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
NAMES = frozenset({*FIELDS, *GUIDED})

_Schema = dict[str, Any] | bool
_Text = Annotated[str, Meta(min_length=1)]
_Choices = Annotated[list[_Text], Meta(min_length=1, max_length=MAX_CHOICES)]


class SchemaFormat(msgspec.Struct):
    """OpenAI's wrapping of a schema; all of them are strict here."""

    schema: _Schema
    name: str = ""
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct):
    """OpenAI's `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None


class Grammar(msgspec.Struct):
    """mistral.rs' `grammar`."""

    type: Literal["regex", "lark", "json_schema", "llguidance"]
    value: Any


class StructuredOutputs(msgspec.Struct, forbid_unknown_fields=True):
    """vLLM's `structured_outputs`: one of these."""

    json: str | _Schema | None = None
    regex: _Text | None = None
    choice: _Choices | None = None
    grammar: _Text | None = None
    json_object: bool | None = None


class Asking(Protocol):
    """A request that may ask in any of these ways."""

    response_format: Any
    grammar: Any
    structured_outputs: Any
    guided_json: Any
    guided_regex: Any
    guided_choice: Any
    guided_grammar: Any


def constraint_of(request: Asking) -> Constraint | None:
    """The one thing that is asked for, None if the answer is free. Raises ApiError."""
    asked = list(_asked(request))
    if len(asked) > 1:
        first, second = asked[0].param, asked[1].param
        what = f"'{first}' and '{second}' exclude each other; ask in one way."
        raise ApiError("invalid_value", what, second.partition(".")[0])
    return asked[0] if asked else None


def _asked(request: Asking) -> Iterator[Constraint]:
    readers: Mapping[str, Callable[[Any], Iterator[Constraint]]] = {
        "response_format": _of_response_format,
        "grammar": _of_grammar,
        "structured_outputs": _of_structured_outputs,
    }
    for field, read in readers.items():
        if (value := getattr(request, field)) is not None:
            yield from read(value)
    guided = {name.removeprefix("guided_"): getattr(request, name) for name in GUIDED}
    yield from _of_parts(guided, lambda name: f"guided_{name}")


def _of_response_format(value: Any) -> Iterator[Constraint]:
    asked = _read(value, ResponseFormat, "response_format")
    if asked.type == "json_object":
        yield Constraint("json_object", param="response_format")
    if asked.type == "json_schema":
        param = "response_format.json_schema"
        yield Constraint("json_schema", needed(asked.json_schema, param).schema, param)


def _of_grammar(value: Any) -> Iterator[Constraint]:
    asked = _read(value, Grammar, "grammar")
    kinds: Mapping[str, Any] = {
        "regex": _Text,
        "lark": _Text,
        "json_schema": str | _Schema,
        "llguidance": _Text | dict[str, Any],
    }
    inner = _read(asked.value, kinds[asked.type], "grammar.value")
    if asked.type == "json_schema":
        inner = _schema(inner, "grammar.value")
    yield Constraint(asked.type, inner, "grammar")


def _of_structured_outputs(value: Any) -> Iterator[Constraint]:
    asked = _read(value, StructuredOutputs, "structured_outputs")
    if asked.json_object:
        yield Constraint("json_object", param="structured_outputs.json_object")
    parts = {name: getattr(asked, name) for name in ("json", "regex", "choice", "grammar")}
    yield from _of_parts(parts, lambda name: f"structured_outputs.{name}")


def _of_parts(parts: Mapping[str, Any], param: Callable[[str], str]) -> Iterator[Constraint]:
    """vLLM's four, as they are called without their prefix."""
    if (value := parts["json"]) is not None:
        schema = _read(value, str | _Schema, param("json"))
        yield Constraint("json_schema", _schema(schema, param("json")), param("json"))
    if (value := parts["regex"]) is not None:
        yield Constraint("regex", _read(value, _Text, param("regex")), param("regex"))
    if (value := parts["choice"]) is not None:
        yield Constraint("choice", _read(value, _Choices, param("choice")), param("choice"))
    if (value := parts["grammar"]) is not None:
        yield Constraint("gbnf", _read(value, _Text, param("grammar")), param("grammar"))


def _schema(value: Any, param: str) -> Any:
    """A schema that may have come as text."""
    if not isinstance(value, str):
        return value
    try:
        return _read(msgspec.json.decode(value), _Schema, param)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ApiError("invalid_value", f"'{param}' is not valid JSON: {error}.", param) from error


def _read(value: Any, kind: Any, param: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        raise invalid(f"{what} - at `$.{param}{path or '`'}") from error
