"""Grammars of tool calls, one for each form that models write them in (`formats.py`).

Knows how a model's marks are spelled from its caller, no tokens.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from engine.text.grammar_text import literal, of_lark, with_whitespace

Tool = Mapping[str, Any]


class Caller(NamedTuple):
    """A model that calls: its format's name, its marks as terms of Lark, its template."""

    format: str
    spell: Callable[[str], str]
    template: str


def calls_grammar(caller: Caller, tools: Sequence[Tool], max_calls: int | None) -> str:
    """One call or more, and nothing else. `tools` are as OpenAI writes them."""
    write = _FORMS[caller.format]
    return of_lark(write(caller, _Calls(tools, max_calls)))


class _Calls(NamedTuple):
    tools: Sequence[Tool]
    max_calls: int | None

    def several(self, call: str, between: str) -> str:
        """`call`, or more of them."""
        if self.max_calls == 1:
            return call
        most = "" if self.max_calls is None else str(self.max_calls - 1)
        return f"{call} ({between} {call}){{0,{most}}}"

    def alternatives(self, before: Callable[[str], str], behind: str) -> str:
        """The rule `call`: for each tool what `before` writes of its name, then its arguments."""
        rules = [
            f"call_{i}: {before(tool['function']['name'])} args_{i}{behind}\n"
            f"args_{i}: %json {_schema(tool)}\n"
            for i, tool in enumerate(self.tools)
        ]
        names = " | ".join(f"call_{i}" for i in range(len(self.tools)))
        return f"call: {names}\n" + "".join(rules)

    def objects(self, key: str) -> str:
        """The rule `call` for calls that are JSON objects themselves."""
        return self.alternatives(
            lambda name: literal('{"name": ' + json.dumps(name) + f', "{key}": '), ' "}"'
        )


def _schema(tool: Tool) -> str:
    """Arguments are an object, whatever the schema says of them."""
    schema = tool["function"].get("parameters") or {}
    return json.dumps(with_whitespace({"type": "object", **schema}), ensure_ascii=False)


def _hermes(caller: Caller, calls: _Calls) -> str:
    begin, end = caller.spell("<tool_call>"), caller.spell("</tool_call>")
    start = calls.several("one", '"\\n"')
    one = f'one: {begin} "\\n" call "\\n" {end}\n'
    return f"start: {start}\n{one}{calls.objects('arguments')}"


def _phi(caller: Caller, calls: _Calls) -> str:
    begin, end = caller.spell("<|tool_call|>"), caller.spell("<|/tool_call|>")
    start = f'{begin} "[" {calls.several("call", _COMMA)} "]" {end}'
    return f"start: {start}\n{calls.objects('arguments')}"


def _mistral(caller: Caller, calls: _Calls) -> str:
    begin = caller.spell("[TOOL_CALLS]")
    if "[ARGS]" not in caller.template:
        start = f'{begin} "[" {calls.several("call", _COMMA)} "]"'
        return f"start: {start}\n{calls.objects('arguments')}"
    args = caller.spell("[ARGS]")
    named = calls.alternatives(lambda name: f"{begin} {literal(name)} {args}", "")
    return f"start: {calls.several('call', '')}\n{named}"


def _deepseek(caller: Caller, calls: _Calls) -> str:
    first, last = caller.spell("<｜tool▁calls▁begin｜>"), caller.spell("<｜tool▁calls▁end｜>")
    begin, end = caller.spell("<｜tool▁call▁begin｜>"), caller.spell("<｜tool▁call▁end｜>")
    sep = caller.spell("<｜tool▁sep｜>")
    if "```json" in caller.template:
        between, behind = '"\\n"', f' "\\n```" {end}'

        def before(name: str) -> str:
            return f'{begin} "function" {sep} {literal(name + chr(10) + "```json" + chr(10))}'
    else:
        between, behind = "", f" {end}"

        def before(name: str) -> str:
            return f"{begin} {literal(name)} {sep}"

    start = f"{first} {calls.several('call', between)} {last}"
    return f"start: {start}\n{calls.alternatives(before, behind)}"


def _llama(caller: Caller, calls: _Calls) -> str:
    return f"start: {calls.several('call', _SEMICOLON)}\n{calls.objects('parameters')}"


def _bare(caller: Caller, calls: _Calls) -> str:
    one = calls.several("call", _SEMICOLON)
    return f"start: {one}\n{calls.objects('arguments')}"


_COMMA, _SEMICOLON = '", "', '"; "'
_FORMS: Mapping[str, Callable[[Caller, _Calls], str]] = {
    "hermes": _hermes,
    "phi": _phi,
    "mistral": _mistral,
    "deepseek": _deepseek,
    "llama": _llama,
    "json": _bare,
}
