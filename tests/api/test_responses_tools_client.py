"""The real openai client with tools, thoughts and formats on /v1/responses."""

import openai
import pydantic
import pytest

from tests.api.test_responses_client import strict

TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}


@pytest.fixture
def client(api):
    with openai.OpenAI(base_url=api.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client, prompt="act", **options):
    return client.responses.create(model="m", input=prompt, tools=[TOOL], **options)


def kinds_of(response):
    return [item.type for item in response.output]


def test_it_reads_thoughts_words_and_a_call(client):
    response = strict(ask(client, tool_choice="required"))
    thought, message, call = response.output
    assert thought.content[0].text == "Hm."
    assert (message.content[0].text, response.output_text) == ("Wait.", "Wait.")
    assert (call.call_id, call.name, call.arguments) == ("call_1", "add", '{"x":1}')
    assert response.tool_choice == "required"
    assert response.tools[0].name == "add"
    assert response.usage.output_tokens_details.reasoning_tokens == 1


def test_its_stream_helper_follows_the_items(client):
    with client.responses.stream(model="m", input="act", tools=[TOOL]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    numbers = [event.sequence_number for event in events]
    assert numbers == list(range(len(events)))
    deltas = [e for e in events if e.type == "response.function_call_arguments.delta"]
    assert [delta.snapshot for delta in deltas] == ['{"x":', '{"x":1}']
    assert kinds_of(final) == ["reasoning", "message", "function_call"]
    assert final.output[2].parsed_arguments == {"x": 1}


@pytest.mark.parametrize("after", [3, 9, 15])
def test_a_stream_goes_on_in_the_middle_of_any_item(client, after):
    whole = list(ask(client, stream=True, background=True))
    rest = client.responses.retrieve(whole[0].response.id, stream=True, starting_after=after)
    assert [event.to_dict() for event in rest] == [event.to_dict() for event in whole[after + 1 :]]


def wire(job):
    return [m["content"] for m in job.messages], job.messages[1]


def test_a_call_is_answered_by_its_id_in_the_response_behind(client, fake_worker):
    first = ask(client)
    result = {"type": "function_call_output", "call_id": "call_1", "output": "echo two"}
    second = ask(client, [result], previous_response_id=first.id)
    assert second.output_text == "two "
    contents, turn = wire(fake_worker.specs[second.id])
    assert contents == ["act", "Wait.", "echo two"]
    assert turn["reasoning_content"] == "Hm."
    assert turn["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"x":1}'}
    items = client.responses.input_items.list(second.id, order="asc")
    listed = [strict(item) for item in items]
    assert [item.type for item in listed] == [
        *("message", "reasoning", "message", "function_call", "function_call_output")
    ]
    assert [item.id for item in listed[1:4]] == [item.id for item in first.output]
    third = client.responses.create(model="m", input="echo three", previous_response_id=second.id)
    assert len(fake_worker.specs[third.id].messages) == 5


def test_a_client_may_keep_the_conversation_itself(client, fake_worker):
    first = ask(client, store=False)
    result = {"type": "function_call_output", "call_id": "call_1", "output": "echo two"}
    items = [{"role": "user", "content": "act"}, *(i.to_dict() for i in first.output), result]
    second = ask(client, items, store=False)
    contents, turn = wire(fake_worker.specs[second.id])
    assert (contents, turn["reasoning_content"]) == (["act", "Wait.", "echo two"], "Hm.")


def test_an_item_of_any_kind_can_be_referred_to(client, fake_worker):
    first = ask(client)
    references = [{"type": "item_reference", "id": item.id} for item in first.output]
    result = {"type": "function_call_output", "call_id": "call_1", "output": "echo two"}
    second = ask(client, [{"role": "user", "content": "act"}, *references, result])
    assert wire(fake_worker.specs[second.id])[0] == ["act", "Wait.", "echo two"]


def test_a_call_needs_its_result_before_the_next_turn(client):
    first = ask(client)
    with pytest.raises(openai.BadRequestError, match="No tool output found") as caught:
        ask(client, "echo on", previous_response_id=first.id)
    assert caught.value.param == "input"


class Point(pydantic.BaseModel):
    x: int


def test_its_parser_asks_for_a_schema_and_reads_what_comes(client, fake_worker):
    parsed = client.responses.parse(model="m", input='echo {"x":1}', text_format=Point)
    assert parsed.output_parsed == Point(x=1)
    constraint = fake_worker.specs[parsed.id].constraint
    assert (constraint.kind, constraint.value["required"]) == ("json_schema", ["x"])
    shown = strict(parsed).text.format
    assert (shown.type, shown.name, shown.schema_["type"]) == ("json_schema", "Point", "object")


def test_logprobs_are_asked_for_by_include(client, fake_worker):
    response = client.responses.create(
        model="m", input="echo a", include=["message.output_text.logprobs"], top_logprobs=2
    )
    assert fake_worker.specs[response.id].sampling.logprobs == 2
    assert strict(response).top_logprobs == 2


def test_input_tokens_are_counted_as_a_worker_counts_the_prompt(client):
    first = client.responses.create(model="m", input="echo one", instructions="be")
    count = client.responses.input_tokens.count(
        model="m", input="hi", instructions="sing", previous_response_id=first.id
    )
    assert count.object == "response.input_tokens"
    assert count.input_tokens == len("system:sing|user:echo one|assistant:one |user:hi")
