"""Bad input gets the status, code and param that it deserves: never a 5xx, never silence."""

import json
import socket
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from api.estimate import MAX_BYTES_PER_TOKEN
from tests.api.fake_worker import CONTEXT_LENGTH

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
DEEP = b"[" * 5000 + b"]" * 5000
NESTED = b'{"not":' * 900 + b"{}" + b"}" * 900


class Bad(NamedTuple):
    """A request and its answer."""

    name: str
    path: str
    body: Any
    status: int = 400
    code: str | None = None
    param: str | None = None
    method: str = "POST"
    headers: Mapping[str, str] = MappingProxyType({})


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


def chat(name: str, code: str, param: str | None = None, **fields: Any) -> Bad:
    """A chat request that is right but for `fields`."""
    return Bad(name, CHAT, {"model": "m", "messages": user("hi")} | fields, 400, code, param)


F = {"name": "f"}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def tool(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": function}


def text(name: str, code: str, param: str | None = None, **fields: Any) -> Bad:
    return Bad(name, TEXT, {"model": "m", "prompt": "hi"} | fields, 400, code, param)


def raw(name: str, body: bytes, code: str = "invalid_json", param: str | None = None) -> Bad:
    return Bad(name, CHAT, body, 400, code, param)


def field(value: bytes) -> bytes:
    """A chat body with `value`, as it is, for the field `x`."""
    return b'{"messages":[{"role":"user","content":"hi"}],' + value + b"}"


def tool_json(schema: bytes) -> bytes:
    return b'{"type":"function","function":{"name":"f","parameters":{"not":%b}}}' % schema


TYPE, VALUE, MISSING = "invalid_type", "invalid_value", "missing_required_parameter"
REFUSED = "unsupported_parameter"

BAD_REQUESTS = [
    chat(
        "hopelessly long",
        "context_length_exceeded",
        "messages",
        messages=user("x" * (CONTEXT_LENGTH * MAX_BYTES_PER_TOKEN + 1)),
    ),
    # Bodies that are no JSON object.
    raw("empty body", b""),
    raw("blank body", b" \n "),
    raw("truncated", b'{"messages":'),
    raw("trailing text", b'{"messages":"a"} x'),
    raw("not JSON", b"messages=hi"),
    raw("a byte order mark", b'\xef\xbb\xbf{"messages":"a"}'),
    raw("bad UTF-8", b'{"messages":"\xff\xfe"}'),
    raw("a raw NUL byte", b'{"messages":"a\x00b"}'),
    raw("a lone surrogate", b'{"messages":"\\ud800"}'),
    raw("deep in an unknown field", field(b'"x":' + DEEP)),
    raw("deep in a known field", field(b'"response_format":' + DEEP)),
    raw("deep objects", field(b'"x":' + b'{"a":' * 5000 + b"1" + b"}" * 5000)),
    raw("deeper than a job can carry", field(b'"tools":[%b]' % tool_json(NESTED))),
    raw("an integer beyond 64 bits", field(b'"tools":[%b]' % tool_json(b"1" * 30)), VALUE),
    raw("one in what the template gets", field(b'"chat_template_kwargs":{"x":-%d}' % 2**64), VALUE),
    raw("deep messages", b'{"messages":' + DEEP + b"}", TYPE, "messages[0]"),
    raw("NaN", field(b'"temperature":NaN')),
    raw("Infinity", field(b'"top_p":Infinity')),
    raw("a number beyond float", field(b'"temperature":1e999'), VALUE, "temperature"),
    raw("an array", b"[]", TYPE),
    raw("null", b"null", TYPE),
    raw("a string", b'"hi"', TYPE),
    # Messages.
    raw("no messages", b"{}", MISSING, "messages"),
    chat("null messages", TYPE, "messages", messages=None),
    chat("messages a number", TYPE, "messages", messages=5),
    chat("messages an object", TYPE, "messages", messages={"role": "user"}),
    chat("empty messages", VALUE, "messages", messages=[]),
    chat("a null message", TYPE, "messages[0]", messages=[None]),
    chat("no role", MISSING, "messages[0].role", messages=[{"content": "hi"}]),
    chat("role a number", TYPE, "messages[0].role", messages=[{"role": 1, "content": "a"}]),
    chat("unknown role", VALUE, "messages[0].role", messages=[{"role": "boss", "content": "a"}]),
    chat("null content", TYPE, "messages[0].content", messages=user(None)),
    chat("content a number", TYPE, "messages[0].content", messages=user(5)),
    chat("content of strings", TYPE, "messages[0].content[0]", messages=user(["hi"])),
    chat("no part type", MISSING, "messages[0].content[0].type", messages=user([{}])),
    chat(
        "a text part without text",
        MISSING,
        "messages[0].content[0].text",
        messages=user([{"type": "text"}]),
    ),
    chat(
        "an image",
        "unsupported_content",
        "messages[0].content[1]",
        messages=user(
            [
                {"type": "text", "text": "what is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ]
        ),
    ),
    chat(
        "tool calls without a function",
        MISSING,
        "messages[0].tool_calls[0].function",
        messages=[{"role": "assistant", "tool_calls": [{"id": "1"}]}],
    ),
    # Numbers.
    chat("negative max_tokens", VALUE, "max_tokens", max_tokens=-1),
    chat("zero max_tokens", VALUE, "max_tokens", max_tokens=0),
    chat("fractional max_tokens", TYPE, "max_tokens", max_tokens=1.5),
    chat("max_tokens in words", TYPE, "max_tokens", max_tokens="ten"),
    chat("boolean max_tokens", TYPE, "max_tokens", max_tokens=True),
    chat("huge max_tokens", VALUE, "max_tokens", max_tokens=2**62),
    chat("beyond 64 bits", VALUE, "max_tokens", max_tokens=10**30),
    chat("zero max_completion_tokens", VALUE, "max_completion_tokens", max_completion_tokens=0),
    chat("min over max tokens", VALUE, "min_tokens", min_tokens=9, max_tokens=3),
    chat("negative min_tokens", VALUE, "min_tokens", min_tokens=-1),
    chat("negative temperature", VALUE, "temperature", temperature=-0.1),
    chat("hot temperature", VALUE, "temperature", temperature=2.1),
    chat("temperature in words", TYPE, "temperature", temperature="hot"),
    chat("zero top_p", VALUE, "top_p", top_p=0),
    chat("top_p over one", VALUE, "top_p", top_p=1.01),
    chat("top_k below -1", VALUE, "top_k", top_k=-2),
    chat("min_p over one", VALUE, "min_p", min_p=1.5),
    chat("no repetition penalty", VALUE, "repetition_penalty", repetition_penalty=0),
    chat("presence penalty", VALUE, "presence_penalty", presence_penalty=-2.5),
    chat("frequency penalty", VALUE, "frequency_penalty", frequency_penalty=3),
    chat("seed beyond 64 bits", VALUE, "seed", seed=2**70),
    chat("fractional seed", TYPE, "seed", seed=0.5),
    chat("user a number", TYPE, "user", user=5),
    chat("n zero", VALUE, "n", n=0),
    chat("n too large", VALUE, "n", n=129),
    chat("n a list", TYPE, "n", n=[1]),
    # Token ids.
    chat("bias beyond the vocabulary", VALUE, "logit_bias", logit_bias={"100": 1}),
    chat("bias of a negative id", VALUE, "logit_bias", logit_bias={"-1": 1}),
    chat("bias of a word", TYPE, "logit_bias", logit_bias={"the": 1}),
    chat("bias too strong", VALUE, "logit_bias", logit_bias={"1": 101}),
    chat("bias a list", TYPE, "logit_bias", logit_bias=[1, 2]),
    chat("stop ids beyond", VALUE, "stop_token_ids", stop_token_ids=[100]),
    chat("stop ids negative", VALUE, "stop_token_ids[0]", stop_token_ids=[-5]),
    # Stops and flags.
    chat("empty stop", VALUE, "stop", stop=""),
    chat("an empty stop of two", VALUE, "stop[1]", stop=["a", ""]),
    chat("a long stop", VALUE, "stop", stop="x" * 4097),
    chat("a long stop of two", VALUE, "stop[1]", stop=["a", "x" * 4097]),
    chat("too many stops", VALUE, "stop", stop=["x"] * 17),
    chat("stop a number", TYPE, "stop", stop=4),
    chat("a null stop of two", TYPE, "stop[1]", stop=["a", None]),
    chat("stream in words", TYPE, "stream", stream="yes"),
    chat("stream_options a list", TYPE, "stream_options", stream_options=[]),
    chat(
        "include_usage a number",
        TYPE,
        "stream_options.include_usage",
        stream_options={"include_usage": 1},
    ),
    chat("model null", TYPE, "model", model=None),
    chat("model a number", TYPE, "model", model=5),
    chat(
        "a reserved template variable",
        VALUE,
        "chat_template_kwargs",
        chat_template_kwargs={"messages": "x"},
    ),
    # What we know and lack.
    chat("a tool of another type", VALUE, "tools[0].type", tools=[{"type": "x", "function": F}]),
    chat("a nameless tool", MISSING, "tools[0].function.name", tools=[tool({})]),
    chat("a tool's bad name", VALUE, "tools[0].function.name", tools=[tool({"name": "a b"})]),
    chat("a tool twice", VALUE, "tools[1].function.name", tools=[tool(F), tool(F)]),
    chat("tools of no list", TYPE, "tools", tools={}),
    chat("too many tools", VALUE, "tools", tools=[tool(F)] * 129),
    text("tools in a completion", REFUSED, "tools", tools=[tool(F)]),
    chat("tool_choice required without tools", VALUE, "tool_choice", tool_choice="required"),
    chat("an unknown tool", VALUE, "tool_choice", tools=[tool(F)], tool_choice=named("x")),
    chat(
        "a tool of no name", MISSING, "tool_choice.function.name", tool_choice={"type": "function"}
    ),
    chat(
        "a schema and a tool that must be called",
        VALUE,
        "response_format",
        tools=[tool(F)],
        tool_choice="required",
        response_format={"type": "json_object"},
    ),
    chat(
        "two grammars",
        VALUE,
        "guided_regex",
        response_format={"type": "json_object"},
        guided_regex="a",
    ),
    chat("two in one", VALUE, "structured_outputs", structured_outputs={"regex": "a", "json": {}}),
    chat(
        "JSON mode of another kind",
        VALUE,
        "response_format.type",
        response_format={"type": "yaml"},
    ),
    chat(
        "a schema that is missing",
        MISSING,
        "response_format.json_schema",
        response_format={"type": "json_schema"},
    ),
    chat(
        "a schema of the wrong type",
        TYPE,
        "response_format.json_schema.schema",
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": 3}},
    ),
    chat("a grammar's type", VALUE, "grammar.type", grammar={"type": "ebnf", "value": ""}),
    chat("a grammar's value", TYPE, "grammar.value", grammar={"type": "regex", "value": 1}),
    chat("an unknown structure", VALUE, "structured_outputs", structured_outputs={"xml": "a"}),
    chat("a schema as bad text", VALUE, "guided_json", guided_json="{"),
    chat("no choices", VALUE, "guided_choice", guided_choice=[]),
    text("a regex of a completion", TYPE, "guided_regex", guided_regex=5),
    chat("logprobs a number", TYPE, "logprobs", logprobs=3),
    chat("top_logprobs alone", VALUE, "top_logprobs", top_logprobs=3),
    chat("top_logprobs 21", VALUE, "top_logprobs", logprobs=True, top_logprobs=21),
    chat("an echo in a chat", REFUSED, "echo", echo=True),
    chat("audio", REFUSED, "audio", audio={"voice": "alloy"}),
    chat("audio out", REFUSED, "modalities", modalities=["text", "audio"]),
    chat("an adapter", REFUSED, "adapter", adapter="lora"),
    # Text completions.
    Bad("no prompt", TEXT, {"model": "m"}, 400, MISSING, "prompt"),
    text("null prompt", TYPE, "prompt", prompt=None),
    text("empty prompt", VALUE, "prompt", prompt=""),
    text("an empty list of prompts", VALUE, "prompt", prompt=[]),
    text("an empty prompt of two", VALUE, "prompt", prompt=["a", ""]),
    text("an empty list of ids", VALUE, "prompt", prompt=[[]]),
    text("a negative id", VALUE, "prompt[1]", prompt=[1, -1]),
    text("an id beyond the vocabulary", VALUE, "prompt", prompt=[1, 100]),
    text("a nested id beyond", VALUE, "prompt", prompt=[[1], [2, 100]]),
    text("a fractional id", TYPE, "prompt[0]", prompt=[1.5]),
    text("a boolean id", TYPE, "prompt[0]", prompt=[True]),
    text("ids beyond 64 bits", VALUE, "prompt[0]", prompt=[10**30]),
    text("ids among texts", TYPE, "prompt", prompt=["a", 1]),
    text("ids three deep", TYPE, "prompt[0][0]", prompt=[[[1]]]),
    text("a prompt object", TYPE, "prompt", prompt={"a": 1}),
    text("too many choices", VALUE, "n", prompt=["a", "b", "c"], n=100),
    text("too many prompts", VALUE, "n", prompt=["a"] * 257),
    text("echo a text", TYPE, "echo", echo="yes"),
    text("a suffix", REFUSED, "suffix", suffix="end"),
    text("best_of below n", VALUE, "best_of", best_of=2, n=3),
    text("best_of in a stream", VALUE, "best_of", best_of=3, stream=True),
    text("best_of 21", VALUE, "best_of", best_of=21),
    text("too many candidates", VALUE, "n", prompt=["a"] * 20, best_of=20),
    text("no allowed tokens", VALUE, "allowed_token_ids", allowed_token_ids=[]),
    text("an allowed token beyond", VALUE, "allowed_token_ids", allowed_token_ids=[100]),
    text("an empty bad word", VALUE, "bad_words[0]", bad_words=[""]),
    text("bad words a text", TYPE, "bad_words", bad_words="no"),
    text("a negative DRY", VALUE, "dry_multiplier", dry_multiplier=-1),
    text("a DRY base below one", VALUE, "dry_base", dry_multiplier=1, dry_base=0.5),
    text("an empty breaker", VALUE, "dry_sequence_breakers[0]", dry_sequence_breakers=[""]),
    chat("best_of in a chat", REFUSED, "best_of", best_of=3),
    chat(
        "continue a user's message",
        VALUE,
        "messages",
        continue_final_message=True,
    ),
    chat(
        "continue and begin",
        VALUE,
        "continue_final_message",
        continue_final_message=True,
        add_generation_prompt=True,
        messages=[{"role": "assistant", "content": "a"}],
    ),
    text("logprobs true", TYPE, "logprobs", logprobs=True),
    text("logprobs 21", VALUE, "logprobs", logprobs=21),
    text("top_logprobs", REFUSED, "top_logprobs", top_logprobs=3),
    text("max_tokens -1", VALUE, "max_tokens", max_tokens=-1),
    # Routes, methods, jobs, sizes.
    Bad("unknown route", "/v1/nothing", {}, 404, "not_found"),
    Bad("unknown page", "/nothing?x=1", None, 404, "not_found", method="GET"),
    Bad("a path with bad UTF-8", "/v1/%ff%fe", None, 404, "not_found", method="GET"),
    Bad("get a completion", "/v1/completions", None, 405, "method_not_allowed", method="GET"),
    Bad("put a chat", CHAT, {}, 405, "method_not_allowed", method="PUT"),
    Bad("post models", "/v1/models", {}, 405, "method_not_allowed"),
    Bad("delete health", "/health", None, 405, "method_not_allowed", method="DELETE"),
    Bad("a method nobody knows", CHAT, None, 400, "bad_request", method="BREW"),
    Bad("unknown model", "/v1/models/a/b", None, 404, "model_not_found", "model", method="GET"),
    Bad("unknown job", "/v1/jobs/cmpl-0/events", None, 404, "job_not_found", method="GET"),
    Bad(
        "a job number that is none",
        "/v1/jobs/cmpl-0/events?starting_after=x",
        None,
        400,
        VALUE,
        "starting_after",
        method="GET",
    ),
    Bad(
        "a negative event number",
        "/v1/jobs/cmpl-0/events",
        None,
        400,
        VALUE,
        "Last-Event-ID",
        method="GET",
        headers={"Last-Event-ID": "-7"},
    ),
    Bad("a body over the limit", CHAT, b" " * ((1 << 20) + 1), 413, "request_too_large"),
]


@pytest.mark.parametrize("bad", BAD_REQUESTS, ids=[bad.name for bad in BAD_REQUESTS])
def test_a_bad_request_is_answered_with_its_status_code_and_param(api, bad):
    reply = api.request(bad.method, bad.path, bad.body, **bad.headers)
    assert reply.status == bad.status, reply.body
    error = reply.json["error"]
    assert (error["code"], error["param"]) == (bad.code, bad.param), error
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert reply.json["message"] == error["message"]
    assert reply.headers["x-request-id"]
    assert reply.headers["content-type"] == "application/json"


def test_the_table_has_no_two_entries_of_one_name():
    assert len({bad.name for bad in BAD_REQUESTS}) == len(BAD_REQUESTS) >= 60


def test_a_wrong_method_says_which_ones_there_are(api):
    reply = api.request("PUT", CHAT, {})
    assert {"GET", "POST", "OPTIONS"} == {n.strip() for n in reply.headers["allow"].split(",")}


FINE = [
    ("a bare string", {"messages": "echo hi"}),
    ("a NUL escape", {"messages": user("echo \0")}),
    ("parts", {"messages": user([{"type": "text", "text": "echo hi"}])}),
    (
        "a null assistant",
        {"messages": [{"role": "assistant", "content": None}, *user("echo hi")]},
    ),
    (
        "earlier tool calls",
        {
            "messages": [
                {"role": "developer", "content": "be brief"},
                {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]},
                {"role": "tool", "content": "5", "tool_call_id": "1"},
                *user("echo hi"),
            ]
        },
    ),
    ("unknown fields", {"messages": "echo hi", "x": {"y": 1}, "user": "me", "store": True}),
    ("empty tools", {"messages": "echo hi", "tools": [], "tool_choice": "none"}),
    ("text format", {"messages": "echo hi", "response_format": {"type": "text"}}),
    ("logprobs", {"messages": "echo hi", "logprobs": True, "top_logprobs": 20}),
    ("a DRY that is off", {"messages": "echo hi", "dry_multiplier": 0, "dry_base": 1.75}),
    ("no special tokens", {"messages": "echo hi", "skip_special_tokens": True}),
    ("no logprobs", {"messages": "echo hi", "logprobs": False, "top_logprobs": 0}),
    ("nulls", {"messages": "echo hi", "temperature": None, "stop": None, "max_tokens": None}),
    ("whole floats", {"messages": "echo hi", "temperature": 1, "top_k": -1, "n": 1}),
    ("no model", {"messages": "echo hi"}),
]


@pytest.mark.parametrize(("body"), [b for _, b in FINE], ids=[name for name, _ in FINE])
def test_what_clients_send_and_means_no_harm_is_accepted(api, body):
    reply = api.request("POST", CHAT, body)
    assert reply.status == 200, reply.body


def test_the_content_type_does_not_matter(api):
    body = json.dumps({"messages": "echo hi"}).encode()
    assert api.request("POST", CHAT, body, Content_Type="text/plain").status == 200


def exchange(api, head: bytes, body: bytes = b"") -> bytes:
    """Send raw bytes, all of them, then read until the server closes."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as connection:
        connection.sendall(head)
        for start in range(0, len(body), 1 << 16):
            connection.sendall(body[start : start + (1 << 16)])
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


POST = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def test_a_body_of_100_mb_is_refused_and_the_client_gets_to_read_why(api):
    before = api.worker.memory_info().rss
    body = b" " * (100 << 20)
    head = POST + b"Content-Length: %d\r\n\r\n" % len(body)
    assert exchange(api, head, body).startswith(b"HTTP/1.1 413 ")
    assert api.worker.memory_info().rss - before < 20 << 20


def test_a_chunked_body_is_counted_while_it_comes(api):
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    body = chunk * 40 + b"0\r\n\r\n"
    reply = exchange(api, POST + b"Transfer-Encoding: chunked\r\n\r\n", body)
    assert reply.startswith(b"HTTP/1.1 413 ")


def test_a_client_that_asks_first_is_refused_before_it_sends(api):
    head = POST + b"Expect: 100-continue\r\nContent-Length: 200000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: ten\r\n\r\n",
        b"Content-Length: -5\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"Bad Header\r\n\r\n",
    ],
    ids=["words", "negative", "two", "both framings", "bad chunk size", "no colon"],
)
def test_broken_http_is_a_400(api, head):
    assert exchange(api, POST + head).startswith(b"HTTP/1.1 400 ")


def test_a_query_with_bad_utf8_does_no_harm(api):
    reply = exchange(api, b"GET /health?a=\xff%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert reply.split(b" ")[1] in (b"200", b"400")


def test_a_body_that_stops_coming_is_a_408(api_redis, directory, start_api):
    server = start_api(api_redis.url, directory, read_timeout_s=0.3)
    try:
        reply = exchange(server, POST + b"Content-Length: 50\r\n\r\n{")
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in reply
    finally:
        server.kill()


def test_a_websocket_is_refused(api):
    reply = api.get(
        CHAT,
        Connection="Upgrade",
        Upgrade="websocket",
        Sec_WebSocket_Version="13",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
    )
    assert reply.status == 403
