"""How models write tool calls: a reader for each form, and which one a model's template is of.

A reader takes the whole text of an answer and never ends but with it. What is no call after all is
content, so nothing is lost.
"""

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

from engine.text.speech import Parts
from engine.text.tools.call_json import NotACall, call_object, json_value
from engine.text.tools.source import EndOfText, Source, Waiting

Reader = Callable[[Source, Parts], Waiting]


class Format(NamedTuple):
    """`marks` are texts, most of them special tokens, that the reader has to see."""

    name: str
    read: Reader
    marks: tuple[str, ...] = ()


def read_hermes(source: Source, parts: Parts) -> Waiting:
    """Hermes, Qwen: `<tool_call>{"name", "arguments"}</tool_call>`, again and again."""
    while True:
        mark = yield from source.pass_until(["<tool_call>"], parts.content)
        if (yield from _call(source, parts, mark)):
            yield from source.pass_until(["</tool_call>"], _nothing)


def read_phi(source: Source, parts: Parts) -> Waiting:
    """Phi-4-mini: `<|tool_call|>[{…}, …]<|/tool_call|>`; Phi-3.5 and others: `functools[{…}]`."""
    while True:
        mark = yield from source.pass_until(["<|tool_call|>", "functools["], parts.content)
        if mark.endswith("["):
            source.text = "[" + source.text
        if (yield from _calls(source, parts, mark.removesuffix("["))) and not mark.endswith("["):
            yield from source.pass_until(["<|/tool_call|>"], _nothing)


def read_mistral(source: Source, parts: Parts) -> Waiting:
    """Mistral: `[TOOL_CALLS][{…}, …]`; since v11 `[TOOL_CALLS]name[ARGS]{…}`, once a call."""
    while True:
        mark = yield from source.pass_until(["[TOOL_CALLS]"], parts.content)
        try:
            yield from source.skip_space()
        except EndOfText:
            parts.content(mark)
            raise
        if source.text[0] in "[{":
            yield from _calls(source, parts, mark)
        else:
            yield from _named(source, parts, mark, ["[ARGS]", "[CALL_ID]"])


def read_deepseek(source: Source, parts: Parts) -> Waiting:
    """DeepSeek: `function`, a mark, the name, a fence; V3.1: the name, a mark, the arguments."""
    begin, sep, end = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
    all_begin, all_end = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
    while True:
        mark = yield from source.pass_until([begin, all_begin, all_end], parts.content)
        if mark != begin:
            continue
        if (yield from source.starts_with(f"function{sep}")):
            source.take(len(f"function{sep}"))
            sep_now = "```json"
        else:
            sep_now = sep
        if (yield from _named(source, parts, mark, [sep_now])):
            yield from source.pass_until([end], _nothing)


def read_llama(source: Source, parts: Parts) -> Waiting:
    """Llama 3: `<|python_tag|>{"name", "parameters"}`, or that object bare; several behind `;`."""
    space = yield from source.leading_space()
    mark = f"{space}<|python_tag|>"
    if (yield from source.starts_with(mark)):
        source.take(len(mark))
    yield from read_bare(source, parts)


def read_bare(source: Source, parts: Parts) -> Waiting:
    """An answer that is nothing but JSON objects with the name of a tool, or a list of them."""
    space = yield from source.leading_space()
    while source.text[len(space) : len(space) + 1] in ("[", "{"):
        if not (yield from _calls(source, parts, source.take(len(space)), is_known=True)):
            break
        while (yield from source.char()).isspace() or source.text[0] == ";":
            source.take(1)
        space = ""
    yield from source.pass_all(parts.content)


HERMES = Format("hermes", read_hermes, ("<tool_call>", "</tool_call>"))
PHI = Format("phi", read_phi, ("<|tool_call|>", "<|/tool_call|>"))
MISTRAL = Format("mistral", read_mistral, ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"))
DEEPSEEK = Format(
    "deepseek",
    read_deepseek,
    (
        *("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"),
        *("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
    ),
)
LLAMA = Format("llama", read_llama, ("<|python_tag|>",))
BARE = Format("json", read_bare)
FORMATS = (DEEPSEEK, MISTRAL, HERMES, PHI, LLAMA)


def format_of(template: str) -> Format:
    """The format that a chat template shows the model; bare JSON if it shows none."""
    known = (f for f in FORMATS if f.marks[0] in template)
    return next(known, LLAMA if "ipython" in template.lower() else BARE)


def _nothing(text: str) -> None:
    """What stands between a call and its end is nobody's."""


def _call(
    source: Source, parts: Parts, mark: str, *, is_known: bool = False
) -> Generator[None, None, bool]:
    """Read one object behind `mark`. False if it is none; then it was content."""
    num_calls = parts.num_calls
    source.remember()
    try:
        begin = parts.begin_known if is_known else parts.begin
        yield from call_object(source, begin, parts.arguments)
    except (NotACall, EndOfText) as error:
        taken = source.taken()
        if parts.num_calls == num_calls:
            parts.content(mark + taken)
        if isinstance(error, EndOfText):
            if parts.num_calls == num_calls and source.text:
                parts.content(source.take(len(source.text)))
            raise
        return False
    source.taken()
    return True


def _calls(
    source: Source, parts: Parts, mark: str, *, is_known: bool = False
) -> Generator[None, None, bool]:
    """Read an object or a list of them behind `mark`."""
    yield from source.skip_space()
    if source.text[0] != "[":
        return (yield from _call(source, parts, mark, is_known=is_known))
    source.take(1)
    before = f"{mark}["
    while (yield from _call(source, parts, before, is_known=is_known)):
        before = ""
        yield from source.skip_space()
        end = source.take(1)
        if end == "]":
            return True
        if end != ",":
            parts.content(end)
            return False
    return False


def _named(
    source: Source, parts: Parts, mark: str, seps: Sequence[str]
) -> Generator[None, None, bool]:
    """Read `name`, one of `seps`, and the arguments. False if it is no call."""
    source.remember()
    heard: list[str] = []
    try:
        sep = yield from source.pass_until(seps, heard.append)
        if sep == "[CALL_ID]":
            yield from source.pass_until(["[ARGS]"], _nothing)
    except EndOfText:
        parts.content(mark + source.taken())
        raise
    name = "".join(heard).strip()
    if not name or any(char.isspace() for char in name):
        parts.content(mark + source.taken())
        return False
    source.taken()
    parts.begin(name)
    try:
        yield from json_value(source, parts.arguments)
    except NotACall:
        return False
    return True
