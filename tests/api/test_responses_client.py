"""The real openai client's view of /v1/responses; its typed models judge every shape."""

import openai
import pytest
from openai.types.responses import Response


@pytest.fixture
def client(api):
    with openai.OpenAI(base_url=api.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def strict(model):
    """The same object, validated: the client itself takes any shape."""
    return type(model).model_validate(model.to_dict(mode="json"))


def test_it_reads_a_whole_response(client):
    response = strict(client.responses.create(model="m", input="echo hello there"))
    assert response.output_text == "hello there "
    assert (response.status, response.usage.total_tokens) == ("completed", 9)


def test_it_reads_a_stream(client):
    events = list(client.responses.create(model="m", input="echo hello there", stream=True))
    for event in events:
        strict(event)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "hello there "
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "hello there "


def test_its_stream_helper_finds_the_final_response(client):
    with client.responses.stream(model="m", input="echo hello there") as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(texts) == final.output_text == "hello there "


def test_it_polls_a_background_response(client, wait):
    made = strict(client.responses.create(model="m", input="echo a b", background=True))
    assert made.status in ("queued", "in_progress")
    wait(lambda: client.responses.retrieve(made.id).status == "completed", "it completes")
    done = strict(client.responses.retrieve(made.id))
    assert done.output_text == "a b "


def test_it_resumes_a_background_stream(client):
    stream = client.responses.create(model="m", input="count 50", stream=True, background=True)
    first = []
    for event in stream:
        first.append(event)
        if len(first) == 10:
            break
    stream.close()
    rest = client.responses.retrieve(
        first[0].response.id, stream=True, starting_after=first[-1].sequence_number
    )
    events = [*first, *rest]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas == [f"{i} " for i in range(50)]
    assert events[-1].type == "response.incomplete"


def test_it_cancels(client, fake_worker):
    made = client.responses.create(model="m", input="hang on", background=True)
    assert strict(client.responses.cancel(made.id)).status == "cancelled"
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"


def test_it_deletes(client):
    made = client.responses.create(model="m", input="echo a")
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(made.id)


def test_it_goes_on_from_an_earlier_response_and_lists_the_items(client):
    first = client.responses.create(model="m", input="echo one")
    second = client.responses.create(
        model="m",
        input=[{"role": "user", "content": "echo two"}],
        previous_response_id=first.id,
    )
    assert second.previous_response_id == first.id
    items = client.responses.input_items.list(second.id, order="asc", limit=2)
    listed = [strict(item) for item in items]  # it turns the pages itself
    assert [item.content[0].text for item in listed] == ["echo one", "one ", "echo two"]
    assert listed[1].id == first.output[0].id


def test_an_output_is_an_input_as_it_is(client, fake_worker):
    first = client.responses.create(model="m", input="echo one")
    made = client.responses.create(
        model="m",
        input=[
            {"role": "user", "content": "echo one"},
            *(item.to_dict() for item in first.output),
            {"role": "user", "content": "echo two"},
        ],
    )
    assert [m["content"] for m in fake_worker.specs[made.id].messages] == [
        "echo one",
        "one ",
        "echo two",
    ]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"background": True, "store": False}, "store"),
        ({"previous_response_id": "resp_unknown"}, "previous_response_id"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ],
)
def test_bad_input_is_a_bad_request_with_its_param(client, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="m", input="hi", **options)
    assert caught.value.param == param


def test_a_stream_that_fails_late_ends_with_the_failed_response(client):
    events = list(client.responses.create(model="m", input="fail_late x", stream=True))
    assert events[-1].type == "response.failed"
    failed = Response.model_validate(events[-1].response.to_dict(mode="json"))
    assert failed.error is not None
    assert failed.error.code == "server_error"
