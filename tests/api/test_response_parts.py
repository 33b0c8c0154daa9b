"""A response that thinks, speaks and calls: its items, their events, their order, any replay."""

import json
from typing import Any

import msgspec
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseReasoningItem

from api.response.stream import ResponseFrames
from api.response.view import ResponseView
from tests.api.test_response_stream import CODE, EVENTS, job, names, parse, view
from workers.contract import (
    CallDelta,
    Constraint,
    Delta,
    Done,
    Event,
    Failed,
    Started,
    TokenLogprob,
    Tokens,
    Usage,
)

BEGIN = Delta(0, (3,), "", calls=(CallDelta(0, "c0", "add", '{"x"'),))
GO_ON = Delta(0, (4,), "", calls=(CallDelta(0, None, None, ":1}"), CallDelta(1, "c1", "tell", "")))
LAST = Delta(0, (5,), "", "tool_calls", calls=(CallDelta(1, None, None, "{}"),))


def said(*deltas: Delta, end: Event | None = None) -> list[Event]:
    """One step a delta, and one for the mark behind the thoughts."""
    steps = [Tokens(i, (delta,)) for i, delta in enumerate(deltas, 1)]
    return [Started(0, 3), *steps, end or Done(len(deltas) + 1, Usage(3, len(deltas), 1))]


EVERYTHING = (
    Delta(0, (1,), "", reasoning="H"),
    Delta(0, (1,), "", reasoning="m."),
    Delta(0, (9,), ""),
    Delta(0, (2,), "Wait. "),
    BEGIN,
    GO_ON,
    LAST,
)
CUT_CALL = (BEGIN, Delta(0, (4,), "", "length"))
LOGS = {
    "everything": said(*EVERYTHING),
    "calls alone": said(BEGIN, GO_ON, LAST),
    "thoughts alone": said(EVERYTHING[0], Delta(0, (1,), "", "length", reasoning="m")),
    "a call cut off": said(*CUT_CALL),
    "words behind a call": said(BEGIN, Delta(0, (2,), "so", "stop")),
    "nothing": said(Delta(0, (2,), "", "stop")),
    "failed in a call": said(*EVERYTHING[:5], end=Failed(6, "engine_error", "broken")),
    "failed at once": said(end=Failed(1, "engine_error", "broken")),
}
ADDED, DONE = "output_item.added", "output_item.done"
PART, PART_DONE = "content_part.added", "content_part.done"


def arguments(*ends: str) -> list[str]:
    return [f"function_call_arguments.{end}" for end in ends]


def test_each_item_is_opened_filled_and_closed_before_the_next():
    assert names(ResponseFrames(job()).render(LOGS["everything"])) == [
        *("created", "in_progress"),
        *(ADDED, PART, "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", PART_DONE, DONE),
        *(ADDED, PART, "output_text.delta", "output_text.done", PART_DONE, DONE),
        *(ADDED, *arguments("delta", "delta", "done"), DONE),
        *(ADDED, *arguments("delta", "done"), DONE),
        "completed",
    ]


def test_an_answer_of_nothing_is_an_empty_message():
    assert names(ResponseFrames(job()).render(LOGS["nothing"])) == [
        *("created", "in_progress", ADDED, PART),
        *("output_text.done", PART_DONE, DONE, "completed"),
    ]
    (message,) = view(LOGS["nothing"])["output"]
    assert (message["status"], message["content"][0]["text"]) == ("completed", "")


@pytest.mark.parametrize("name", LOGS)
def test_every_event_is_what_openais_types_say(name):
    frames = parse(ResponseFrames(job(is_background=True)).render(LOGS[name]))
    for number, (kind, id_, body) in enumerate(frames):
        event = EVENTS.validate_python(body)
        assert type(event).model_validate(body).type == kind
        assert (body["sequence_number"], id_) == (number, str(number))


@pytest.mark.parametrize("name", LOGS)
def test_a_replay_from_any_number_is_the_tail_of_the_whole(name):
    whole = parse(ResponseFrames(job()).render(LOGS[name]))
    for after in range(-1, len(whole)):
        assert parse(ResponseFrames(job(), after).render(LOGS[name])) == whole[after + 1 :]
    split = ResponseFrames(job())
    pieces = [split.render([event]) for event in LOGS[name]]
    assert b"".join(pieces) == ResponseFrames(job()).render(LOGS[name])


def text_of(item: dict[str, Any]) -> str:
    text: str = item["arguments"] if "arguments" in item else item["content"][0]["text"]
    return text


@pytest.mark.parametrize("name", LOGS)
def test_the_events_lead_to_what_the_response_says(name):
    """Whoever adds up the deltas has the items at the end, and each is told as it then is."""
    frames = [body for _, _, body in parse(ResponseFrames(job()).render(LOGS[name]))]
    output = frames[-1]["response"]["output"]
    grown: dict[int, str] = {}
    for body in frames:
        if body["type"].endswith(".delta"):
            index = body["output_index"]
            assert body["item_id"] == output[index]["id"]
            grown[index] = grown.get(index, "") + body["delta"]
        elif body["type"] == "response.output_item.done":
            assert body["item"] == output[body["output_index"]]
    assert [grown.get(i, "") for i in range(len(output))] == [text_of(item) for item in output]
    assert Response.model_validate(view(LOGS[name])).to_dict() == view(LOGS[name])


def test_the_items_are_thoughts_words_and_calls():
    body = view(LOGS["everything"])
    thought, message, first, second = Response.model_validate(body).output
    assert isinstance(thought, ResponseReasoningItem)
    assert thought.content is not None
    assert (thought.id, thought.summary) == (f"rs_{CODE}", [])
    assert [part.text for part in thought.content] == ["Hm."]
    assert message.id == f"msg_{CODE}_o1"
    assert body["status"] == "completed"
    for item, values in (
        (first, (f"fc_{CODE}_o2", "c0", "add", '{"x":1}', "completed")),
        (second, (f"fc_{CODE}_o3", "c1", "tell", "{}", "completed")),
    ):
        assert isinstance(item, ResponseFunctionToolCall)
        assert (item.id, item.call_id, item.name, item.arguments, item.status) == values


def test_a_call_that_was_cut_off_is_incomplete():
    body = view(LOGS["a call cut off"])
    assert (body["status"], body["output"][0]["status"]) == ("incomplete", "incomplete")
    assert body["output"][0]["arguments"] == '{"x"'


def test_an_item_that_another_follows_is_complete_while_the_response_runs():
    running = view(LOGS["everything"][:-2])
    assert running["status"] == "in_progress"
    statuses = [item["status"] for item in running["output"]]
    assert statuses == ["completed", "completed", "completed", "in_progress"]


def test_tokens_of_thoughts_are_counted_with_their_marks():
    details = view(LOGS["everything"])["usage"]["output_tokens_details"]
    assert details == {"reasoning_tokens": 3}
    assert view(LOGS["thoughts alone"])["usage"]["output_tokens_details"]["reasoning_tokens"] == 2
    assert view(LOGS["calls alone"])["usage"]["output_tokens_details"]["reasoning_tokens"] == 0


def test_the_next_turn_goes_on_from_all_items():
    response = ResponseView(job())
    response.add(LOGS["everything"])
    items = response.turn()
    assert [item.kind for item in items] == [
        *("reasoning", "message", "function_call", "function_call")
    ]
    assert msgspec.json.encode([item.view() for item in items]) == msgspec.json.encode(
        response.items()
    )


def token(text: str, *top: str) -> TokenLogprob:
    return TokenLogprob(text.encode(), -0.5, tuple((t.encode(), -1.0) for t in top))


TOLD = said(
    Delta(0, (1,), "", None, (token("<think>"),)),
    Delta(0, (1,), "", None, (token("Hm"),), reasoning="Hm"),
    Delta(0, (1,), "", None, (token("</think>"),)),
    Delta(0, (2,), "Wa", None, (token("Wa", "Go"),)),
    Delta(0, (3,), "", None, (token("i"),)),
    Delta(0, (3,), "it", None, (token("t"),)),
    Delta(0, (4,), "", "stop", (token("<end>"),)),
)


def test_the_tokens_of_what_is_said_and_no_other_are_told_with_it():
    spec = msgspec.structs.replace(
        job(), sampling=msgspec.structs.replace(job().sampling, logprobs=1)
    )
    frames = [body for _, _, body in parse(ResponseFrames(spec).render(TOLD))]
    deltas = [f for f in frames if f["type"] == "response.output_text.delta"]
    told = [[item["token"] for item in delta["logprobs"]] for delta in deltas]
    assert told == [["Wa"], ["i", "t"]]
    assert deltas[0]["logprobs"][0] == {
        "token": "Wa",
        "logprob": -0.5,
        "bytes": [87, 97],
        "top_logprobs": [{"token": "Go", "logprob": -1.0, "bytes": [71, 111]}],
    }
    response = frames[-1]["response"]
    assert response["top_logprobs"] == 1
    whole = [item for delta in deltas for item in delta["logprobs"]]
    assert response["output"][1]["content"][0]["logprobs"] == whole
    done = next(f for f in frames if f["type"] == "response.output_text.done")
    assert done["logprobs"] == whole
    for body in frames:
        EVENTS.validate_python(body)


def test_tools_choice_and_format_are_said_back():
    shape = {"type": "json_schema", "name": "point", "strict": True}
    tools = ({"type": "function", "name": "add", "parameters": {}, "strict": True},)
    choice = {"type": "function", "name": "add"}
    spec: Any = job(text_format=shape, tools=tools, tool_choice=choice)
    schema = {"type": "object"}
    spec = msgspec.structs.replace(spec, constraint=Constraint("json_schema", schema))
    response = Response.model_validate(
        json.loads(msgspec.json.encode(ResponseView(spec).response()))
    ).to_dict()
    assert response["text"] == {"format": {**shape, "schema": schema}}
    assert (response["tools"], response["tool_choice"]) == (list(tools), choice)
