"""Grammars as llguidance takes them: of JSON schemas, regexes, choices and grammar texts.

Writes text alone: whether one compiles, `grammar.py` finds out. Every one is JSON with a list of
grammars of which the first is the whole.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from engine.errors import InvalidInput

# A small model that may write white space without end does.
WHITESPACE = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{0,16}"}
# Others say something of a value that is no rule for its text, as Pydantic's `password` and `path`.
FORMATS = frozenset(
    {
        *("date-time", "time", "date", "duration", "email", "hostname"),
        *("ipv4", "ipv6", "uuid", "uri"),
    }
)
_VALUES = frozenset({"const", "enum", "default", "examples"})
_BODY = "body"
_WORDS = "/(?s:.*)/"


def of_json_schema(schema: Any) -> str:
    """JSON that a schema allows. Raises InvalidInput for what is no schema."""
    return _grammars(json_schema=with_whitespace(schema))


def with_whitespace(schema: Any) -> dict[str, Any]:
    """A schema that says how much white space may stand between its tokens."""
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    if not isinstance(schema, dict):
        raise InvalidInput("A JSON schema is an object.")
    own = schema.get("x-guidance")
    read = _with_known_formats(schema)
    return {**read, "x-guidance": {**WHITESPACE, **(own if isinstance(own, dict) else {})}}


def _with_known_formats(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_known_formats(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: value if key in _VALUES else _with_known_formats(value)
        for key, value in node.items()
        if key != "format" or not isinstance(value, str) or value in FORMATS
    }


def of_json_object() -> str:
    """Any JSON object."""
    return of_json_schema({"type": "object"})


def of_regex(regex: str, *, is_led: bool = False) -> str:
    """Text that a regex (of Rust's kind) matches as a whole.

    `is_led`: nobody sees the first space of the text, so one may come before.
    """
    body = "/" + _for_lark(regex) + "/"
    if not is_led:
        return _grammars(lark_grammar="start: " + body)
    unled = "BODY & ~/ (?s:.*)/"
    return _grammars(lark_grammar=f'start: " " BODY | UNLED\nBODY: {body}\nUNLED: {unled}\n')


def of_choice(texts: Sequence[str], *, is_led: bool = False) -> str:
    """One of several texts; `is_led` as above."""
    if is_led:
        texts = [f" {text}" for text in texts] + [t for t in texts if not t.startswith(" ")]
    return _grammars(lark_grammar="start: " + " | ".join(map(literal, texts)))


def led(grammar: str, *, is_free: bool, name: str = "shown") -> str:
    """`grammar` for a text whose first space nobody sees: with one more before.

    It may be missing if `is_free`, where nothing that the grammar allows begins with a space.
    `name` is for the grammar, if it has none.
    """
    document, name = _named(grammar, name)
    lark = f'start: " "{"?" if is_free else ""} @{name}'
    document["grammars"].insert(0, {"lark_grammar": lark})
    return json.dumps(document, ensure_ascii=False)


def of_lark(grammar: str) -> str:
    """What a Lark grammar in llguidance's dialect allows."""
    return _grammars(lark_grammar=grammar)


def of_gbnf_or_lark(grammar: str) -> str:
    """As vLLM takes them: Lark, or llama.cpp's GBNF, which `gbnf.py` is to convert."""
    if "::=" not in grammar or re.search(r"(?m)^\s*(%llguidance\b|start\s*:)", grammar):
        return of_lark(grammar)
    return _grammars(gbnf=grammar)


def of_llguidance(grammar: Any) -> str:
    """llguidance's own form, an object with `grammars`. Raises InvalidInput if it is another."""
    try:
        document = json.loads(grammar) if isinstance(grammar, str) else grammar
    except ValueError as error:
        raise InvalidInput(f"The grammar is not valid JSON: {error}.") from error
    grammars = document.get("grammars") if isinstance(document, dict) else None
    if not (isinstance(grammars, list) and grammars) or not all(
        isinstance(part, dict) for part in grammars
    ):
        raise InvalidInput("A grammar of llguidance's is an object with a list of `grammars`.")
    return json.dumps({**document, "grammars": grammars}, ensure_ascii=False)


def behind_reasoning(grammar: str, begin: str, end: str, *, has_begun: bool) -> str:
    """`grammar` for what follows a model's reasoning, whose marks come as terms of Lark.

    Unless it `has_begun` in the prompt there may be none.
    """
    document, name = _named(grammar, _BODY)
    thought = "thought" if has_begun else f"({begin} thought)?"
    # Words never hold a special token, so nothing else is needed to end at one.
    inner = f"inner: words {end}\nwords: {_WORDS}\n"
    if not end.startswith("<["):
        inner = f"inner[suffix={end}]: {_WORDS}\n"
    lark = f"start: {thought} @{name}\nthought: inner /\\s{{0,4}}/\n{inner}"
    document["grammars"].insert(0, {"lark_grammar": lark})
    return json.dumps(document)


def either(calls: str, answer: str) -> str:
    """What one of the two allows."""
    document, first = _named(calls, "calls")
    other, second = _named(answer, "answer")
    choice = {"lark_grammar": f"start: @{first} | @{second}"}
    document["grammars"] = [choice, *document["grammars"], *other["grammars"]]
    return json.dumps(document)


def _named(grammar: str, name: str) -> tuple[dict[str, Any], str]:
    """A grammar whose whole others can refer to, and by which name."""
    document: dict[str, Any] = json.loads(grammar)
    return document, document["grammars"][0].setdefault("name", name)


def literal(text: str) -> str:
    """`text` as a term of Lark."""
    return json.dumps(text, ensure_ascii=False)


def _for_lark(regex: str) -> str:
    """A regex between Lark's slashes: one of its own is escaped, if it is not yet."""
    parts: list[str] = []
    is_escaped = False
    for char in regex:
        if char == "/" and not is_escaped:
            parts.append("\\/")
        else:
            parts.append("\\n" if char == "\n" else char)
        is_escaped = char == "\\" and not is_escaped
    return "".join(parts)


def _grammars(**grammar: Any) -> str:
    return json.dumps({"grammars": [grammar]}, ensure_ascii=False)
