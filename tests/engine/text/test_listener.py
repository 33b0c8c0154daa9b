"""Reasoning, answers and tool calls in a model's text, whatever parts it arrives in."""

import itertools
import json

import pytest
from hypothesis import given, settings, strategies as st

from engine.text.listener import Listener
from engine.text.reasoning import Thinking
from engine.text.tools.formats import BARE, DEEPSEEK, HERMES, LLAMA, MISTRAL, PHI, format_of

THINK = Thinking("<think>", "</think>")
TOOLS = ("weather", "add")
FORMATS = [HERMES, MISTRAL, PHI, DEEPSEEK, LLAMA, BARE]


def hear(text, places=(), **what):
    """The whole of what was said: (content, reasoning, [(name, arguments)])."""
    listener = Listener(tool_names=TOOLS, **what)
    cuts = [0, *sorted(places), len(text)]
    said = [listener.push(text[a:b]) for a, b in itertools.pairwise(cuts)] + [listener.end()]
    calls: list[list[str]] = []
    for call in (call for part in said for call in part.calls):
        if call.name is not None:
            assert call.number == len(calls)
            calls.append([call.name, ""])
        calls[call.number][1] += call.arguments
    content = "".join(part.content for part in said)
    return content, "".join(part.reasoning for part in said), [tuple(call) for call in calls]


A = '{"city": "Aix", "note": "a \\"}{\\" brace"}'
B = '{"x": [1, {"y": 2}], "z": null}'

CALLS = {
    "hermes": (HERMES, f'<tool_call>\n{{"name": "weather", "arguments": {A}}}\n</tool_call>'),
    "mistral": (MISTRAL, f'[TOOL_CALLS] [{{"name": "weather", "arguments": {A}}}]'),
    "mistral v11": (MISTRAL, f"[TOOL_CALLS]weather[ARGS]{A}"),
    "mistral v13": (MISTRAL, f"[TOOL_CALLS]weather[CALL_ID]abc123xyz[ARGS]{A}"),
    "phi": (PHI, f'<|tool_call|>[{{"name": "weather", "arguments": {A}}}]<|/tool_call|>'),
    "phi functools": (PHI, f'functools[{{"name": "weather", "arguments": {A}}}]'),
    "deepseek": (
        DEEPSEEK,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n"
        f"```json\n{A}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    "deepseek v3.1": (
        DEEPSEEK,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"
        f"{A}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    "llama": (LLAMA, f'{{"name": "weather", "parameters": {A}}}'),
    "llama with its tag": (LLAMA, f'<|python_tag|>{{"name": "weather", "parameters": {A}}}'),
    "llama with a type": (
        LLAMA,
        f'{{"type": "function", "name": "weather", "parameters": {A}}}',
    ),
    "arguments first": (LLAMA, f'{{"parameters": {A}, "name": "weather"}}'),
    "arguments as a string": (
        HERMES,
        f'<tool_call>{{"name": "weather", "arguments": {json.dumps(A)}}}</tool_call>',
    ),
    "bare": (BARE, f' {{"function": "weather", "arguments": {A}}}'),
    "bare list": (BARE, f'[{{"name": "weather", "arguments": {A}}}]'),
}


@pytest.mark.parametrize(("form", "text"), CALLS.values(), ids=CALLS)
def test_a_call_is_heard_however_its_text_is_cut(form, text):
    expected = "", "", [("weather", A)]
    assert hear(text, tools=form) == expected
    assert hear(text, range(len(text)), tools=form) == expected
    for place in range(len(text)):
        assert hear(text, [place], tools=form) == expected


PAIRS = {
    "hermes": (
        HERMES,
        f'I look.\n<tool_call>{{"name": "weather", "arguments": {A}}}</tool_call>\n'
        f'<tool_call>{{"name": "add", "arguments": {B}}}</tool_call>\n',
        "I look.",
    ),
    "mistral": (
        MISTRAL,
        f'I look.[TOOL_CALLS][{{"name": "weather", "arguments": {A}}}, '
        f'{{"name": "add", "arguments": {B}}}]',
        "I look.",
    ),
    "mistral v11": (
        MISTRAL,
        f"[TOOL_CALLS]weather[ARGS]{A}[TOOL_CALLS]add[ARGS]{B}",
        "",
    ),
    "deepseek": (
        DEEPSEEK,
        "I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"
        f"{A}<｜tool▁call▁end｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{B}<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
        "I look.",
    ),
    "llama": (
        LLAMA,
        f'{{"name": "weather", "parameters": {A}}}; {{"name": "add", "parameters": {B}}}',
        "",
    ),
}


@pytest.mark.parametrize(("form", "text", "content"), PAIRS.values(), ids=PAIRS)
def test_calls_are_numbered_and_white_space_around_them_is_nobodys(form, text, content):
    for places in ((), range(len(text)), range(0, len(text), 3)):
        assert hear(text, places, tools=form) == (content, "", [("weather", A), ("add", B)])


NO_CALLS = {
    "plain text": "There is no call here, { not even this }.",
    "an open bracket": '[not a call] and {"more": 1}',
    "JSON of the user's": '{"city": "Aix", "temperature": 3}',
    "an unknown tool": '{"name": "nobody", "parameters": {}}',
    "half a mark": "a <tool_ca and [TOOL_ and <|tool_call",
    "spaces": "  \n ",
    "nothing": "",
}


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("text", NO_CALLS.values(), ids=NO_CALLS)
def test_what_is_no_call_is_content(form, text):
    for places in ((), range(len(text))):
        assert hear(text, places, tools=form) == (text, "", [])


BROKEN = {
    "no JSON": "<tool_call>hello</tool_call>",
    "a list": "<tool_call>[1]</tool_call>",
    "no name": '<tool_call>{"arguments": {}}</tool_call>',
    "a name that is none": '<tool_call>{"name": 5}</tool_call>',
    "cut before its name": '<tool_call>{"nam',
    "cut before anything": "<tool_call>",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_call_is_shown_as_it_was_written(text):
    for places in ((), range(len(text))):
        assert hear(text, places, tools=HERMES) == (text, "", [])


def test_a_call_that_is_cut_off_has_the_arguments_that_came():
    text = '<tool_call>{"name": "add", "arguments": {"x": [1, "un'
    for places in ((), range(len(text))):
        assert hear(text, places, tools=HERMES) == ("", "", [("add", '{"x": [1, "un')])


def test_a_call_without_arguments_has_none():
    text = '<tool_call>{"name": "add"}</tool_call>'
    assert hear(text, tools=HERMES) == ("", "", [("add", "{}")])


def test_arguments_are_told_as_they_arrive():
    listener = Listener(tools=HERMES)
    assert listener.push('<tool_call>{"name": "add", "arg').calls == ((0, "add", ""),)
    assert listener.push('uments": {"x": "on').calls == ((0, None, '{"x": "on'),)
    assert listener.push('e"}').calls == ((0, None, 'e"}'),)


def test_content_is_told_as_it_arrives():
    listener = Listener(tools=HERMES, thinking=THINK)
    assert listener.push("Hello <too").content == "Hello"
    assert listener.push("ls>!").content == " <tools>!"


THOUGHTS = {
    "thought, then said": ("<think>\nHm. \n</think>\n\nYes.", False, "Yes.", "Hm."),
    "the prompt began it": ("Hm.\n</think>\nYes.", True, "Yes.", "Hm."),
    "not thought at all": ("\nYes.", False, "\nYes.", ""),
    "no end": ("<think>Hm. Hm", False, "", "Hm. Hm"),
    "nothing thought": ("<think>\n\n</think>\n\nYes.", False, "Yes.", ""),
    "later marks are text": ("Yes. <think>no</think>", False, "Yes. <think>no</think>", ""),
}


@pytest.mark.parametrize(
    ("text", "has_begun", "content", "thought"), THOUGHTS.values(), ids=THOUGHTS
)
def test_reasoning_is_told_apart(text, has_begun, content, thought):
    for places in ((), range(len(text))):
        heard = hear(text, places, thinking=THINK, is_thinking=has_begun)
        assert heard == (content, thought, [])


def test_a_call_may_follow_reasoning_and_is_none_inside_it():
    call = f'<tool_call>{{"name": "weather", "arguments": {A}}}</tool_call>'
    text = f"<think>I could {call}</think>{call}"
    for places in ((), range(len(text))):
        heard = hear(text, places, thinking=THINK, tools=HERMES)
        assert heard == ("", f"I could {call}", [("weather", A)])


ALPHABET = st.sampled_from(
    [
        *(
            "<tool_call>",
            "</tool_call>",
            '{"name": "',
            'add", ',
            '"arguments": ',
            "{",
            "}",
            '"',
            "\\",
        ),
        *("[TOOL_CALLS]", "[ARGS]", "[", "]", ",", " ", "\n", "x", "<think>", "</think>", "1", ":"),
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(ALPHABET, max_size=25).map("".join), st.data())
@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f.name)
def test_what_is_heard_does_not_depend_on_the_cuts(form, text, data):
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    whole = hear(text, tools=form, thinking=THINK)
    assert hear(text, places, tools=form, thinking=THINK) == whole


TEMPLATES = {
    "{% if tools %}<tool_call>{% endif %}": HERMES,
    "[AVAILABLE_TOOLS] [TOOL_CALLS]": MISTRAL,
    "<|tool|> <|tool_call|>": PHI,
    "Environment: ipython": LLAMA,
    "<｜tool▁calls▁begin｜>": DEEPSEEK,
    "{{ messages }}": BARE,
}


@pytest.mark.parametrize(("template", "form"), TEMPLATES.items())
def test_a_template_shows_its_models_form(template, form):
    assert format_of(template) is form
