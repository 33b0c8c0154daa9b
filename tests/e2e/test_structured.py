"""Structured output and forced tool calls through the whole deployment."""

import json
import re
import signal
import time

import httpx2
import openai
import pytest

QUESTION = [{"role": "user", "content": "What is Tramontane?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "speeds": {"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 3},
        "is_cold": {"type": "boolean"},
    },
    "required": ["name", "speeds", "is_cold"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "wind", "schema": SCHEMA, "strict": True}}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["x"],
            "additionalProperties": False,
        },
    },
}
TELL = {"type": "function", "function": {"name": "tell", "parameters": {"type": "object"}}}
LIST = {"regex": "([a-z]{2,6}, ){150}end"}


def chat(client, **options):
    options = {"temperature": 2.0, "max_tokens": 300, "seed": 3} | options
    return client.chat.completions.create(model="m", messages=QUESTION, **options)


def test_a_schema_is_kept_by_every_choice_at_temperature_2(client):
    answer = chat(client, response_format=FORMAT, n=4)
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        said = json.loads(choice.message.content)
        assert list(said) == SCHEMA["required"]
        assert all(isinstance(speed, int) for speed in said["speeds"])


def test_a_stream_is_the_whole_answer(client):
    whole = chat(client, response_format=FORMAT).choices[0].message.content
    chunks = chat(client, response_format=FORMAT, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole


WAYS = {
    "grammar": ({"grammar": {"type": "regex", "value": "a{3}b"}}, "aaab"),
    "lark": ({"grammar": {"type": "lark", "value": 'start: "x" /y{2}/'}}, "xyy"),
    "structured_outputs": ({"structured_outputs": {"choice": ["north"]}}, "north"),
    "guided_regex": ({"guided_regex": "c{4}"}, "cccc"),
    "guided_choice": ({"guided_choice": ["oh no"]}, "oh no"),
    "guided_grammar": ({"guided_grammar": 'root ::= "d" "e"'}, "de"),
    "guided_json": ({"guided_json": '{"const": "a"}'}, '"a"'),
}


@pytest.mark.parametrize(("extra", "text"), WAYS.values(), ids=WAYS)
def test_every_way_to_ask_is_understood(client, extra, text):
    assert chat(client, extra_body=extra).choices[0].message.content == text
    completion = client.completions.create(
        model="m", prompt="Once", max_tokens=40, extra_body=extra, temperature=1.5
    )
    assert completion.choices[0].text == text


def test_json_mode_gives_an_object(client):
    answer = chat(client, response_format={"type": "json_object"}, temperature=0.7)
    choice = answer.choices[0]
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content), dict)
    assert choice.message.content.startswith("{")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streaming"])
def test_a_bad_schema_is_a_400_in_under_a_second(client, stream):
    chat(client, response_format=FORMAT, max_tokens=1)
    bad = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "colour"}}}
    began_s = time.monotonic()
    with pytest.raises(openai.BadRequestError) as refusal:
        chat(client, response_format=bad, stream=stream)
    assert time.monotonic() - began_s < 1
    assert refusal.value.param == "response_format.json_schema"
    assert chat(client, response_format=FORMAT, max_tokens=1).choices


def test_a_required_call_is_made_and_its_arguments_fit(client):
    answer = chat(client, tools=[ADD], tool_choice="required", parallel_tool_calls=False)
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls
    assert call.function.name == "add"
    assert 0 <= json.loads(call.function.arguments)["x"] <= 9
    assert not choice.message.content


def test_a_strict_tool_leaves_words_free(client):
    answer = chat(client, tools=[ADD], temperature=1.5, n=4, max_tokens=60)
    for choice in answer.choices:
        for call in choice.message.tool_calls or ():
            assert choice.finish_reason == "length" or json.loads(call.function.arguments)["x"] <= 9


NAMED = {
    "openai": {"type": "function", "function": {"name": "add"}},
    "flat": {"type": "function", "name": "add"},
    "allowed": {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "add"}}],
        },
    },
}


@pytest.mark.parametrize("choice", NAMED.values(), ids=NAMED)
def test_the_tool_that_is_named_is_called(client, choice):
    answer = chat(client, tools=[TELL, ADD], tool_choice=choice, max_tokens=400)
    calls = answer.choices[0].message.tool_calls
    assert {call.function.name for call in calls} == {"add"}


def test_a_worker_killed_in_mid_answer_is_continued_in_the_same_grammar(stack, client, api_url):
    body = {
        "model": "m",
        "messages": QUESTION,
        "max_tokens": 900,
        "seed": 5,
        "temperature": 1.0,
        "structured_outputs": LIST,
        "stream": True,
    }
    url = api_url + "/v1/chat/completions"
    whole = httpx2.post(url, json=body | {"stream": False}, timeout=60).json()
    expected = whole["choices"][0]["message"]["content"]
    assert re.fullmatch(LIST["regex"], expected)
    text, has_killed = "", False
    with httpx2.stream("POST", url, json=body, timeout=90) as reply:
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            text += "".join(c["delta"].get("content") or "" for c in chunk["choices"])
            if len(text) > 40 and not has_killed:
                has_killed = True
                stack.worker.send_signal(signal.SIGKILL)
                stack.worker.wait()
                stack.start_worker()
    assert has_killed
    assert text == expected
