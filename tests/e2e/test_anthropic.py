"""The real anthropic client against the running server: messages, streams, counts, resumes."""

import json

import anthropic
import httpx2
import pytest

QUESTION = [{"role": "user", "content": "What is Tramontane?"}]
STORY = [{"role": "user", "content": "Tell me a long story."}]
GREEDY = {"temperature": 0}  # the client knows no sampling parameters any more
ARGUMENTS = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["x"],
    "additionalProperties": False,
}
ADD = {"name": "add", "input_schema": ARGUMENTS, "strict": True}
TOOL = {"name": "weather", "description": "The weather.", "input_schema": {"type": "object"}}


@pytest.fixture
def claude(api_url):
    with anthropic.Anthropic(base_url=api_url, api_key="none", max_retries=0) as client:
        yield client


def ask(claude, messages=QUESTION, **options):
    values = {"model": "claude-any", "max_tokens": 60, "extra_body": GREEDY, **options}
    return claude.messages.create(messages=messages, **values)


def test_it_answers_as_the_chat_endpoint_does(claude, client):
    message = ask(claude)
    chat = client.chat.completions.create(
        model="any", messages=QUESTION, max_tokens=60, temperature=0
    )
    assert message.content[0].text == chat.choices[0].message.content
    assert "Tramontane" in message.content[0].text
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == chat.usage.completion_tokens


def test_a_stream_makes_the_message_that_the_plain_answer_is(claude):
    plain = ask(claude)
    options = {"model": "any", "max_tokens": 60, "extra_body": GREEDY}
    with claude.messages.stream(messages=QUESTION, **options) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == message.content[0].text == plain.content[0].text
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.output_tokens == plain.usage.output_tokens


@pytest.mark.parametrize("options", [{}, {"system": "Be brief."}, {"tools": [TOOL]}])
def test_tokens_are_counted_as_the_answer_s_usage_counts_them(claude, options):
    usage = ask(claude, max_tokens=1, **options).usage
    counted = claude.messages.count_tokens(model="any", messages=QUESTION, **options)
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_ends_have_their_names(claude):
    whole = ask(claude, STORY).content[0].text
    cut = ask(claude, STORY, max_tokens=7)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 7)
    stop = whole[len(whole) // 2 :][:6]
    stopped = ask(claude, STORY, stop_sequences=["never said", stop])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
    assert stopped.content[0].text == whole[: whole.index(stop)]


def test_a_limit_beyond_the_context_is_no_reason_to_refuse(claude):
    message = ask(claude, max_tokens=20_000)
    assert message.stop_reason in ("end_turn", "model_context_window_exceeded")


def test_an_answer_that_was_begun_goes_on(claude):
    whole = ask(claude).content[0].text
    begun = whole[: len(whole) // 2].rstrip()
    rest = ask(claude, [*QUESTION, {"role": "assistant", "content": begun}]).content[0].text
    assert begun + rest == whole


def test_a_conversation_with_a_tool_is_read(claude):
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Windy."}
    turns = [
        *QUESTION,
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    assert ask(claude, turns, tools=[TOOL]).usage.output_tokens > 0


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "add"}])
def test_a_call_that_is_demanded_is_made(claude, choice):
    choice = {**choice, "disable_parallel_tool_use": True}
    options = {"max_tokens": 300, "tools": [ADD], "tool_choice": choice}
    [call] = ask(claude, **options).content
    assert (call.type, call.name) == ("tool_use", "add")
    assert 0 <= call.input["x"] <= 9
    with claude.messages.stream(
        model="any", messages=QUESTION, extra_body=GREEDY, **options
    ) as stream:
        message = stream.get_final_message()
    assert message.content[0].input == call.input
    assert message.stop_reason == "tool_use"


def test_an_answer_follows_its_schema(claude):
    message = ask(claude, output_config={"format": {"type": "json_schema", "schema": ARGUMENTS}})
    assert list(json.loads(message.content[0].text)) == ["x"]


def test_what_is_refused_is_its_exception(claude):
    with pytest.raises(anthropic.BadRequestError, match="no tool called"):
        ask(claude, tools=[TOOL], tool_choice={"type": "tool", "name": "news"})
    bad = {"format": {"type": "json_schema", "schema": {"type": "colour"}}}
    with pytest.raises(anthropic.BadRequestError, match="colour"):
        ask(claude, output_config=bad)
    with pytest.raises(anthropic.BadRequestError, match="context length"):
        ask(claude, [{"role": "user", "content": "word " * 5000}])


def test_a_stream_goes_on_at_another_api_process(claude, api_url, other_api_url):
    body = {"model": "a", "max_tokens": 40, "messages": STORY, "temperature": 0, "stream": True}
    reply = httpx2.post(api_url + "/v1/messages", json=body, timeout=30)
    frames = [frame for frame in reply.text.split("\n\n") if "\nid: " in frame]
    path = f"/v1/jobs/{reply.headers['x-job-id']}/events"
    rest = httpx2.get(other_api_url + path, headers={"last-event-id": "5"}, timeout=30)
    assert [frame for frame in rest.text.split("\n\n") if "\nid: " in frame] == frames[6:]
