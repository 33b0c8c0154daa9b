"""Cases 16 to 19: inputs that are wrong cost their sender a 4xx and nobody else anything.

tests/api/test_bad_requests.py has the whole table; here the named ones meet a real fleet.
"""

import contextlib
import json
import time

import pytest

from tests.chaos.client import CHAT, request
from tests.chaos.crowd import Crowd, question

TEXT = "/v1/completions"
DEEP = b"[" * 5000 + b"]" * 5000


def chat(**fields):
    return CHAT, question(1, **fields)


def raw(value):
    """A chat body with these bytes for `messages`."""
    return CHAT, b'{"model":"any","messages":' + value + b"}"


def messages(value):
    return CHAT, {"model": "any", "messages": value}


def text(prompt, **fields):
    return TEXT, {"model": "any", "prompt": prompt, "max_tokens": 5, **fields}


def field(name, value):
    return CHAT, b'{"messages":[{"role":"user","content":"a"}],"%b":%b}' % (name, value)


def schema(value):
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "a", **value}})


CASES = {
    "16 a response format that nobody knows": (chat(response_format={"type": "hiccup"}), None),
    "16 a schema that is a number": (schema({"schema": 123}), None),
    "16 a schema of a type that is none": (schema({"schema": {"type": 123}}), None),
    "16 a schema of 1 MB that is none": (schema({"schema": {"type": ["x" * (1 << 20)]}}), None),
    "16 a schema of 1 MB": (
        schema({"schema": {"properties": {f"p{i}": {"const": "x" * 80} for i in range(10_000)}}}),
        "response_format.json_schema",
    ),
    "16 references in a loop": (
        schema({"schema": {"$ref": "#/a", "a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}}}),
        "response_format.json_schema",
    ),
    "16 a reference to nowhere": (schema({"schema": {"$ref": "#/nowhere"}}), None),
    "16 a grammar with two roots": (chat(grammar='root ::= "a"\nroot ::= "b"'), None),
    "16 a regular expression that is none": (chat(structured_outputs={"regex": "(a+"}), None),
    "17 a prompt longer than the context": (text("wind " * 9000), "prompt"),
    "17 a chat longer than the context": (
        messages([{"role": "user", "content": "wind " * 9000}]),
        "messages",
    ),
    "17 max_tokens 0": (chat(max_tokens=0), "max_tokens"),
    "17 max_tokens -1": (chat(max_tokens=-1), "max_tokens"),
    "17 max_tokens 1e9": (chat(max_tokens=10**9), "messages"),
    "17 an empty prompt": (text([]), "prompt"),
    "17 a token id beyond the vocabulary": (text([1, 1 << 20]), "prompt"),
    "17 a negative token id": (text([1, -1]), "prompt[1]"),
    "18 messages null": (messages(None), "messages"),
    "18 messages of numbers": (messages([123]), "messages[0]"),
    "18 an empty message": (messages([{}]), "messages[0].role"),
    "18 role 123": (messages([{"role": 123, "content": "a"}]), "messages[0].role"),
    "18 10 MB of content": (
        messages([{"role": "user", "content": "wind " * 2_000_000}]),
        "messages",
    ),
    "18 a NUL byte": (raw(b'[{"role":"user","content":"a\0b"}]'), None),
    "18 a lone surrogate": (raw(b'[{"role":"user","content":"\\ud800"}]'), None),
    "18 JSON 5,000 deep": (raw(DEEP), "messages[0]"),
    "18 half a body": ((CHAT, b'{"messages": ['), None),
    "19 temperature NaN": (field(b"temperature", b"NaN"), None),
    "19 temperature 1e308": (field(b"temperature", b"1e308"), "temperature"),
    "19 temperature 1e999": (field(b"temperature", b"1e999"), "temperature"),
    "19 top_p 0": (chat(top_p=0), "top_p"),
    "19 n 1e6": (chat(n=1_000_000), "n"),
    "19 logprobs 100": (text("a", logprobs=100), "logprobs"),
    "19 an empty stop": (chat(stop=""), "stop"),
    "19 a thousand stops": (chat(stop=["x"] * 1000), "stop"),
    "19 bias of an id that is none": (chat(logit_bias={"-1": 5}), "logit_bias"),
    "19 bias of an id beyond the vocabulary": (chat(logit_bias={str(1 << 20): 5}), "logit_bias"),
}


async def send(port, path, body):
    """Status and error; of a stream that had begun, the error frame counts as a 400."""
    answer = await request(port, "POST", path, body)
    with contextlib.closing(answer):
        if answer.headers["content-type"].startswith("text/event-stream"):
            frames = [frame.data async for frame in answer.frames()]
            assert frames[-1] == "[DONE]"
            found = json.loads(frames[0])
            return (400 if "error" in found else 200), found
        return answer.status, json.loads(await answer.body())


async def is_prompt(port, path, body):
    """Answered within a second; once in three times, for others may have the processor."""
    for _ in range(3):
        began_s = time.monotonic()
        await send(port, path, body)
        if time.monotonic() - began_s < 1:
            return True
    return False


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streaming"])
async def test_cases_16_to_19_bad_inputs_are_refused_and_harm_nobody(fleet, oracle, stream):
    before = {node.pid for node in (*fleet.apis, *fleet.workers)}
    log_bytes = fleet.log_bytes()
    wrong = {}
    async with Crowd(fleet, oracle, 20, max_tokens=150) as crowd:
        await crowd.reach(5)
        for number, (name, ((path, body), param)) in enumerate(CASES.items()):
            if stream and isinstance(body, dict):
                body = body | {"stream": True}
            status, answer = await send(fleet.ports[number % 2], path, body)
            error = answer.get("error", {})
            if status not in (400, 413) or (param is not None and error.get("param") != param):
                wrong[name] = status, answer
            if name.startswith("16") and not await is_prompt(fleet.ports[number % 2], path, body):
                wrong[name] = status, "slow"
        await crowd.finish()
    assert not wrong
    assert {node.pid for node in (*fleet.apis, *fleet.workers) if node.is_alive} == before
    assert crowd.num_moved() == 0, "no engine died"
    assert not fleet.has_logged("Traceback")
    assert fleet.log_bytes() - log_bytes < 100_000, "no flood"
    assert not fleet.has_logged("wind wind"), "what people write is not logged"


async def test_case_16_a_regex_that_explodes_elsewhere_is_followed_at_once(fleet):
    """No matcher here goes back, so there is nothing to refuse."""
    body = question(1, max_tokens=20) | {"structured_outputs": {"regex": "(a+)+$"}}
    began_s = time.monotonic()
    status, answer = await send(fleet.ports[0], CHAT, body)
    assert time.monotonic() - began_s < 5
    assert status == 200
    assert answer["choices"]


async def test_case_18_a_bare_string_as_messages_is_a_question(fleet):
    """mistral.rs takes it, and so do we: the one of the list that is no error."""
    status, answer = await send(
        fleet.ports[0], CHAT, {"model": "any", "messages": "str", "max_tokens": 3}
    )
    assert status == 200
    assert answer["choices"][0]["message"]["content"]
