"""Every form of tool calls with arguments that nobody thought of, cut wherever it may be."""

import json

import pytest
from hypothesis import given, settings, strategies as st

from engine.text.tools.formats import BARE, DEEPSEEK, HERMES, LLAMA, MISTRAL, PHI
from tests.engine.text.test_listener import THINK, hear

NAMES = st.sampled_from(["weather", "add"])
TEXTS = st.text(st.sampled_from('ab "\\{}[]<>/:;,\n\té😀\u2028|▁'), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, width=16) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.builds(
    lambda value, indent, ensures: json.dumps(value, indent=indent, ensure_ascii=ensures),
    st.dictionaries(TEXTS, VALUES, max_size=4),
    st.sampled_from([None, 2]),
    st.booleans(),
)


def _objects(key):
    return lambda call: f'{{"name": "{call[0]}", "{key}": {call[1]}}}'


def _deepseek(call):
    return f"<｜tool▁call▁begin｜>{call[0]}<｜tool▁sep｜>{call[1]}<｜tool▁call▁end｜>"


def _deepseek_fenced(call):
    name, arguments = call
    body = f"function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```"
    return f"<｜tool▁call▁begin｜>{body}<｜tool▁call▁end｜>"


def _around(before, write, between, behind):
    return lambda calls: before + between.join(map(write, calls)) + behind


_object = _objects("arguments")
WRITERS = {
    "hermes": (
        HERMES,
        _around("<tool_call>\n", _object, "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
    ),
    "mistral": (MISTRAL, _around("[TOOL_CALLS][", _object, ", ", "]")),
    "mistral named": (
        MISTRAL,
        _around("", lambda call: f"[TOOL_CALLS]{call[0]}[ARGS]{call[1]}", "", ""),
    ),
    "phi": (PHI, _around("<|tool_call|>[", _object, ", ", "]<|/tool_call|>")),
    "phi functools": (PHI, _around("functools[", _object, ",", "]")),
    "deepseek": (
        DEEPSEEK,
        _around("<｜tool▁calls▁begin｜>", _deepseek, "", "<｜tool▁calls▁end｜>"),
    ),
    "deepseek fenced": (
        DEEPSEEK,
        _around("<｜tool▁calls▁begin｜>", _deepseek_fenced, "\n", "<｜tool▁calls▁end｜>"),
    ),
    "llama": (LLAMA, _around("", _objects("parameters"), "; ", "")),
    "llama tagged": (LLAMA, _around("<|python_tag|>", _objects("parameters"), ";", "")),
    "bare": (BARE, _around("[", _object, ", ", "]")),
}


def check_calls(form, write, calls, data):
    text = write(calls)
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    assert hear(text, places, tools=form) == ("", "", calls)
    assert hear(text, range(len(text)), tools=form) == ("", "", calls), "letter by letter"


CALLS = st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=3)


@settings(max_examples=10, deadline=None)
@given(CALLS, st.data())
@pytest.mark.parametrize(("form", "write"), WRITERS.values(), ids=WRITERS)
def test_calls_are_heard_to_the_letter_wherever_they_are_cut(form, write, calls, data):
    check_calls(form, write, calls, data)


@pytest.mark.nightly
@pytest.mark.timeout(600)
@settings(max_examples=300, deadline=None)
@given(CALLS, st.data())
@pytest.mark.parametrize(("form", "write"), WRITERS.values(), ids=WRITERS)
def test_300_calls_are_heard_to_the_letter(form, write, calls, data):
    check_calls(form, write, calls, data)


COMMON = ["{", "}", "[", "]", '"', "\\", ",", ":", ";", " ", "\n", "x", "1", "é", "</think>"]
JSON = ['{"name": "', 'add", ', 'weather"', '"arguments": ', '"parameters": ', '{"x": 1}', "null"]
MARKS = [
    "<think>",
    "functools[",
    "function",
    "```json",
    "\n```",
    "add",
    "<tool",
    "[TOOL",
    "<|",
    "<｜",
]


@settings(max_examples=25, deadline=None)
@given(st.data())
@pytest.mark.parametrize(
    "form", [HERMES, MISTRAL, PHI, DEEPSEEK, LLAMA, BARE], ids=lambda f: f.name
)
def test_rubbish_made_of_a_form_s_own_marks_is_heard_the_same_wherever_it_is_cut(form, data):
    parts = st.sampled_from([*COMMON, *JSON, *MARKS, *form.marks, *form.marks])
    text = "".join(data.draw(st.lists(parts, max_size=25)))
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    whole = hear(text, tools=form, thinking=THINK)
    assert hear(text, places, tools=form, thinking=THINK) == whole
    assert hear(text, range(len(text)), tools=form, thinking=THINK) == whole
