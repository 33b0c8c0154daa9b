"""Grammars of tool calls, one for each form that models write them in (`formats.py`).

Knows how a model's marks are spelled from its caller, no tokens.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from engine.text.grammar_text import literal, of_lark, with_whitespace

Tool = Mapping[str, Any]


class Caller(NamedTuple):
    """A model that calls: its format's name, its marks as terms of Lark, its template."""

    format: str
    spell: Callable[[str], str]
    template: str


class _Form(NamedTuple):
    """Calls as a model writes them: the first mark, if any, what follows it, and its rules."""

    begin: str
    rest: str
    rules: str


def calls_grammar(caller: Caller, tools: Sequence[Tool], max_calls: int | None) -> str:
    """One call or more, and nothing else. `tools` are as OpenAI writes them."""
    form = _FORMS[caller.format](caller, _Calls(tools, max_calls))
    return of_lark(f"start: {form.begin} {form.rest}\n{form.rules}")


def speech_grammar(caller: Caller, tools: Sequence[Tool], max_calls: int | None) -> str:
    """Words, then calls if there are any."""
    form = _FORMS[caller.format](caller, _Calls(tools, max_calls))
    if not form.begin:  # what looks like a call from its first character on is one
        start = f"start: words | {form.rest}\nwords: /(\\s*[^\\s\\[{{](?s:.*))?/\n"
    elif form.begin.startswith("<["):  # words never hold a special token
        start = f"start: words ({form.begin} {form.rest})?\nwords: /(?s:.*)/\n"
    else:
        mark = re.escape(json.loads(form.begin))
        start = (
            f"start: WORDS | opened {form.rest}\nopened[suffix={form.begin}]: /(?s:.*)/\n"
            f"WORDS: /(?s:.*)/ & ~/(?s:.*){mark}(?s:.*)/\n"
        )
    return of_lark(start + form.rules)


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


def _hermes(caller: Caller, calls: _Calls) -> _Form:
    begin, end = caller.spell("<tool_call>"), caller.spell("</tool_call>")
    rest = calls.several("one", f'"\\n" {begin}')
    return _Form(begin, rest, f'one: "\\n" call "\\n" {end}\n{calls.objects("arguments")}')


def _phi(caller: Caller, calls: _Calls) -> _Form:
    begin, end = caller.spell("<|tool_call|>"), caller.spell("<|/tool_call|>")
    rest = f'"[" {calls.several("call", _COMMA)} "]" {end}'
    return _Form(begin, rest, calls.objects("arguments"))


def _mistral(caller: Caller, calls: _Calls) -> _Form:
    begin = caller.spell("[TOOL_CALLS]")
    if "[ARGS]" not in caller.template:
        rest = f'"[" {calls.several("call", _COMMA)} "]"'
        return _Form(begin, rest, calls.objects("arguments"))
    args = caller.spell("[ARGS]")
    named = calls.alternatives(lambda name: f"{literal(name)} {args}", "")
    return _Form(begin, calls.several("call", begin), named)


def _deepseek(caller: Caller, calls: _Calls) -> _Form:
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

    rest = f"{calls.several('call', between)} {last}"
    return _Form(first, rest, calls.alternatives(before, behind))


def _llama(caller: Caller, calls: _Calls) -> _Form:
    return _Form("", calls.several("call", _SEMICOLON), calls.objects("parameters"))


def _bare(caller: Caller, calls: _Calls) -> _Form:
    return _Form("", calls.several("call", _SEMICOLON), calls.objects("arguments"))


_COMMA, _SEMICOLON = '", "', '"; "'
_FORMS: Mapping[str, Callable[[Caller, _Calls], _Form]] = {
    "hermes": _hermes,
    "phi": _phi,
    "mistral": _mistral,
    "deepseek": _deepseek,
    "llama": _llama,
    "json": _bare,
}
