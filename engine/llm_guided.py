"""What a caller of `LLM` wants an answer to look like, named as vLLM's users know it.

Knows no engine; torch-free.
"""

import json as json_text
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from engine.errors import InvalidInput
from engine.text.constraint import Kind, grammar_of
from engine.text.gbnf import with_lark

_Text = Annotated[str, Meta(min_length=1)]
_KINDS: dict[str, Kind] = {
    "json": "json_schema",
    "regex": "regex",
    "choice": "choice",
    "grammar": "gbnf",
    "json_object": "json_object",
}


class _Fields(msgspec.Struct, frozen=True, kw_only=True):
    json: str | dict[str, Any] | bool | None = None
    regex: _Text | None = None
    choice: Annotated[Sequence[_Text], Meta(min_length=1)] | None = None
    grammar: _Text | None = None
    json_object: bool | None = None


class StructuredOutputsParams(_Fields, frozen=True, kw_only=True):
    """One of these: a JSON schema (a dict or its text), a regex of Rust's kind, a choice of texts,
    a Lark or GBNF grammar, or any JSON object. Raises InvalidInput for none, or more than one.
    """

    def __post_init__(self) -> None:
        try:
            msgspec.convert(msgspec.structs.asdict(self), _Fields)
        except msgspec.ValidationError as error:
            message, _, where = str(error).partition(" - at `$.")
            raise InvalidInput(f"{where.rstrip('`')}: {message}.", "structured_outputs") from error
        if len(self._asked()) != 1:
            what = f"Structured outputs are one of {', '.join(_KINDS)}."
            raise InvalidInput(what, "structured_outputs")

    def _asked(self) -> list[str]:
        return [name for name in _KINDS if getattr(self, name) not in (None, False)]

    def compiled(self, *, is_led: bool) -> str:
        """The grammar for an engine; `is_led` as in `text/constraint.py`. Raises InvalidInput."""
        [name] = self._asked()
        value = getattr(self, name)
        if name == "json" and isinstance(value, str):
            try:
                value = json_text.loads(value)
            except ValueError as error:
                what = f"The JSON schema is not valid JSON: {error}."
                raise InvalidInput(what, "structured_outputs") from error
        return with_lark(grammar_of(_KINDS[name], value, is_led=is_led))


GuidedDecodingParams = StructuredOutputsParams  # its name before vLLM 0.11
