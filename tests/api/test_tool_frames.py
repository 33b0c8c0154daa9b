"""Tool calls and reasoning as OpenAI's clients expect them, whole and streamed."""

import json

import msgspec

from api.answer import Answer
from api.stream import Frames
from tests.api.test_stream import job, parse
from workers.contract import CallDelta, Delta, Done, Event, Started, Tokens, Usage

REST = CallDelta(0, None, None, ":1}")
LOG: list[Event] = [
    Started(0, 3),
    Tokens(1, (Delta(0, (1,), "", reasoning="Hm"),)),
    Tokens(2, (Delta(0, (2,), "Wait. ", reasoning="."),)),
    Tokens(3, (Delta(0, (3,), "", calls=(CallDelta(0, "c0", "add", '{"x"'),)),)),
    Tokens(
        4,
        (Delta(0, (4,), "", calls=(CallDelta(0, None, None, ":1}"), CallDelta(1, "c1", "f", ""))),),
    ),
    Tokens(5, (Delta(0, (5,), "", "tool_calls", calls=(CallDelta(1, None, None, "{}"),)),)),
    Done(6, Usage(3, 5)),
]


def message_of(log):
    answer = Answer(job())
    answer.add(log)
    return json.loads(msgspec.json.encode(answer.response()))["choices"][0]


def test_a_whole_answer_has_its_reasoning_and_calls():
    choice = message_of(LOG)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "Wait. ",
        "refusal": None,
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "c0", "type": "function", "function": {"name": "add", "arguments": '{"x":1}'}},
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ],
    }


def test_an_answer_of_calls_alone_has_no_content():
    assert message_of([LOG[0], *LOG[3:]])["message"]["content"] is None


def test_an_answer_of_text_alone_has_neither():
    message = message_of([Tokens(1, (Delta(0, (1,), "", "stop"),)), Done(2, Usage(3, 1))])[
        "message"
    ]
    assert message == {"role": "assistant", "content": "", "refusal": None}


def test_a_stream_tells_a_call_s_name_once_and_its_arguments_in_pieces():
    frames = [f for _, f in parse(Frames(job()).render(LOG)) if f != "[DONE]"]
    deltas = [f["choices"][0]["delta"] for f in frames[1:]]
    assert "".join(d.get("reasoning_content", "") for d in deltas) == "Hm."
    calls = [call for d in deltas for call in d.get("tool_calls", [])]
    assert calls[0] == {
        "index": 0,
        "id": "c0",
        "type": "function",
        "function": {"name": "add", "arguments": '{"x"'},
    }
    assert calls[1] == {"index": 0, "function": {"arguments": ":1}"}}
    assert [(c["index"], c["function"]["arguments"]) for c in calls[2:]] == [(1, ""), (1, "{}")]
    assert frames[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_resume_tells_what_is_left():
    rest = parse(Frames(job(), after=3).render(LOG))
    assert [number for number, _ in rest] == ["4", "5", "6"]
