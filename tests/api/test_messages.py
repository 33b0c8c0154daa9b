"""Anthropic's Messages over HTTP, with its real client, unchanged."""

import json

import anthropic
import pydantic
import pytest

HI = [{"role": "user", "content": "echo hello there"}]
TOOL = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}


@pytest.fixture
def client(api):
    with anthropic.Anthropic(base_url=api.url, api_key="none", max_retries=0) as client:
        yield client


def ask(client, prompt, **options):
    messages = [{"role": "user", "content": prompt}]
    return client.messages.create(model="claude-any", max_tokens=50, messages=messages, **options)


def post(api, body, path="/v1/messages", **headers):
    return api.request("POST", path, body, **headers)


def body_of(prompt="echo hello there", **fields):
    messages = [{"role": "user", "content": prompt}]
    return {"model": "any", "max_tokens": 50, "messages": messages, **fields}


def test_the_client_reads_a_whole_message(client):
    message = ask(client, "echo hello there")
    assert message.content[0].text == "hello there "
    assert message.stop_reason == "end_turn"
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (4, 3, 2)
    assert message.id.startswith("msg-")
    assert message._request_id.startswith("req_")


def test_the_client_reads_a_stream(client):
    options = {"model": "any", "max_tokens": 50, "messages": HI}
    with client.messages.stream(**options) as stream:
        assert list(stream.text_stream) == ["hello ", "there "]
        message = stream.get_final_message()
    assert message.content[0].text == "hello there "
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 2)
    assert message.usage.cache_read_input_tokens == 3


def test_the_client_gets_thoughts_and_calls_whole_and_streamed(client):
    whole = ask(client, "act", tools=[TOOL])
    messages = [{"role": "user", "content": "act"}]
    options = {"model": "any", "max_tokens": 50, "tools": [TOOL]}
    with client.messages.stream(messages=messages, **options) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert {"thinking", "text", "input_json"} <= set(kinds)
    for message in (whole, streamed):
        thinking, text, call = message.content
        assert (thinking.thinking, text.text) == ("Hm.", "Wait.")
        assert thinking.signature == message.id
        assert message.usage.output_tokens_details.thinking_tokens == 1
        assert (call.id, call.name, call.input) == ("call_1", "add", {"x": 1})
        assert message.stop_reason == "tool_use"


def test_an_answer_is_an_earlier_turn_as_it_is(client, fake_worker):
    first = ask(client, "act", tools=[TOOL])
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": "echo two"}
    turns = [
        {"role": "user", "content": "act"},
        first.to_param(),
        {"role": "user", "content": [result]},
    ]
    second = client.messages.create(model="any", max_tokens=50, messages=turns, tools=[TOOL])
    assert second.content[0].text == "two "
    turn = fake_worker.specs[second.id].messages[1]
    assert (turn["content"], turn["reasoning_content"]) == ("Wait.", "Hm.")
    assert turn["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"x":1}'}


def test_its_loop_over_tools_hears_that_there_are_no_threads_and_does_without(client):
    @anthropic.beta_tool
    def add(x: int) -> str:
        """Adds."""
        return f"echo {x + 1}"

    turns = [{"role": "user", "content": "act"}]
    runner = client.beta.messages.tool_runner(
        model="any", max_tokens=50, tools=[add], messages=turns
    )
    assert [message.stop_reason for message in runner] == ["tool_use", "end_turn"]
    assert runner.until_done().content[0].text == "2 "


class Point(pydantic.BaseModel):
    x: int


def test_the_client_s_parser_asks_for_a_schema_and_reads_what_comes(client, fake_worker):
    messages = [{"role": "user", "content": 'echo {"x":1}'}]
    options = {"model": "any", "max_tokens": 50, "messages": messages, "output_format": Point}
    parsed = client.messages.parse(**options)
    assert parsed.parsed_output == Point(x=1)
    constraint = fake_worker.specs[parsed.id].constraint
    assert (constraint.kind, constraint.value["required"]) == ("json_schema", ["x"])
    with client.messages.stream(**options) as stream:
        assert stream.get_final_message().parsed_output == Point(x=1)


def test_a_call_can_be_demanded(client, fake_worker):
    choice = {"type": "any", "disable_parallel_tool_use": True}
    made = ask(client, "act", tools=[TOOL], tool_choice=choice)
    spec = fake_worker.specs[made.id]
    assert (spec.must_call, spec.max_calls, made.stop_reason) == (True, 1, "tool_use")


def test_the_stop_sequence_that_was_met_is_named(client):
    message = ask(client, "stop here", stop_sequences=["END", "FIN"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")


def test_tokens_are_counted_as_a_worker_counts_the_prompt(client):
    counted = client.messages.count_tokens(
        model="any", system="be", messages=[{"role": "user", "content": "hi"}]
    )
    assert counted.input_tokens == len("system:be|user:hi")


@pytest.mark.parametrize(
    ("prompt", "kind", "type_"),
    [
        ("fail context_length_exceeded", anthropic.BadRequestError, "invalid_request_error"),
        ("fail model_not_found", anthropic.NotFoundError, "not_found_error"),
        ("fail engine_error", anthropic.InternalServerError, "api_error"),
        ("fail no_workers", anthropic.APIStatusError, "overloaded_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_errors_map_to_its_exceptions(client, prompt, kind, type_, stream):
    with pytest.raises(kind) as caught:
        ask(client, prompt, stream=stream)
    assert caught.value.body["error"]["type"] == type_


def test_an_error_in_mid_stream_is_raised(client):
    with pytest.raises(anthropic.APIError, match="it failed with engine_error"):
        list(ask(client, "fail_late engine_error", stream=True))


def test_closing_a_stream_cancels_its_job(client, fake_worker, wait):
    stream = ask(client, "hang on", stream=True)
    job_id = next(iter(stream)).message.id
    stream.close()
    wait(lambda: job_id in fake_worker.cancelled, "the worker is told")


@pytest.mark.parametrize(
    ("body", "status", "type_", "what"),
    [
        (b"{", 400, "invalid_request_error", "not valid JSON"),
        ({"model": "a", "messages": HI}, 400, "invalid_request_error", "max_tokens"),
        (body_of(temperature=1.5), 400, "invalid_request_error", "temperature"),
        (body_of(x="y" * (1 << 20)), 413, "request_too_large", "1048576"),
    ],
)
def test_bad_requests_get_anthropics_body(api, body, status, type_, what):
    reply = post(api, body)
    assert reply.status == status
    assert (reply.json["type"], reply.json["error"]["type"]) == ("error", type_)
    assert what in reply.json["error"]["message"]
    assert reply.json["request_id"] == reply.headers["request-id"]


def test_a_wrong_method_and_an_unknown_route_below_it_get_anthropics_body(api):
    assert api.get("/v1/messages").json["error"]["type"] == "invalid_request_error"
    assert api.get("/v1/messages/x/y").json["error"]["type"] == "not_found_error"


def test_any_stream_goes_on_behind_any_frame_at_the_job_s_address(api, other):
    reply = post(api, body_of("act", stream=True, tools=[TOOL]))
    job_id, everything = reply.headers["x-job-id"], reply.frames
    assert [number for number, _ in everything] == list(range(len(everything)))
    for after in (0, 3, len(everything) - 2):
        rest = other.get(f"/v1/jobs/{job_id}/events", last_event_id=str(after))
        assert rest.frames == everything[after + 1 :]
    end = everything[-1][0]
    assert api.get(f"/v1/jobs/{job_id}/events", last_event_id=str(end)).status == 204
    assert api.get(f"/v1/jobs/{job_id}/events", last_event_id=str(end + 1)).status == 400


def test_a_job_is_shown_in_anthropics_form(api):
    reply = post(api, body_of(), prefer="respond-async")
    assert reply.status == 202
    shown = api.get(reply.headers["location"] + "?wait=10").json
    assert shown["state"] == "completed"
    assert shown["result"]["content"] == [{"type": "text", "text": "hello there "}]


def test_an_idempotency_key_gives_the_same_message(api):
    first, again = (post(api, body_of(), idempotency_key="messages-1") for _ in range(2))
    assert first.json == again.json


def test_an_idle_stream_is_kept_alive_by_ping_events(api):
    connection = api.connect()
    connection.request("POST", "/v1/messages", json.dumps(body_of("hang", stream=True)))
    response = connection.getresponse()
    lines = iter(response.readline, b"")
    assert any(line == b"event: ping\n" for line in lines)
    connection.close()


def test_the_client_takes_no_notice_of_pings(client, api):
    messages = [{"role": "user", "content": f"pause {3 * api.config.ping_s}"}]
    with client.messages.stream(model="any", max_tokens=50, messages=messages) as stream:
        assert list(stream.text_stream) == ["before ", "after"]
