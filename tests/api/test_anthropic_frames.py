"""A job's log as Anthropic's message and as its stream: the same blocks, whole and in pieces."""

import json

import msgspec
import pytest

from api.anthropic.signature import unpacked
from api.anthropic.stream import MessageFrames
from api.anthropic.view import MessageView
from api.schema.anthropic_object import ThinkingBlock
from tests.api.test_stream import job
from workers.contract import (
    MESSAGES,
    CallDelta,
    Delta,
    Done,
    Event,
    Failed,
    Retried,
    Sampling,
    Started,
    Tokens,
    Usage,
)

JOB = msgspec.structs.replace(job(), endpoint=MESSAGES)
LOG: list[Event] = [
    Started(0, 9),
    Tokens(1, (Delta(0, (1,), "", reasoning="Hm"),)),
    Tokens(2, (Delta(0, (2,), "Wait. ", reasoning="."),)),
    Tokens(3, (Delta(0, (3,), "", calls=(CallDelta(0, "c0", "add", '{"x"'),)),)),
    Tokens(
        4,
        (Delta(0, (4,), "", calls=(CallDelta(0, None, None, ":1}"), CallDelta(1, "c1", "f", ""))),),
    ),
    Tokens(5, (Delta(0, (5,), "", "tool_calls"),)),
    Done(6, Usage(9, 5, 4)),
]
CONTENT = [
    {"type": "thinking", "thinking": "Hm.", "signature": JOB.id},
    {"type": "text", "text": "Wait. "},
    {"type": "tool_use", "id": "c0", "name": "add", "input": {"x": 1}},
    {"type": "tool_use", "id": "c1", "name": "f", "input": {}},
]


def whole(log):
    view = MessageView(JOB)
    view.add(log)
    return json.loads(msgspec.json.encode(view.response()))


def said(*deltas):
    tokens = [Tokens(i + 1, (delta,)) for i, delta in enumerate(deltas)]
    return [Started(0, 9), *tokens, Done(len(deltas) + 1, Usage(9, 5))]


def parse(data):
    """(id, event name, data) of each frame."""
    frames = []
    for block in data.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        frames.append((fields.get("id"), fields["event"], json.loads(fields["data"])))
    return frames


def test_a_whole_message_has_its_blocks_in_order():
    message = whole(LOG)
    assert message["content"] == CONTENT
    assert (message["stop_reason"], message["stop_sequence"]) == ("tool_use", None)
    assert message["usage"] == {
        "input_tokens": 5,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 0,
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 1},
    }
    assert (message["id"], message["type"], message["role"]) == (JOB.id, "message", "assistant")


def test_a_stream_opens_fills_and_closes_each_block_in_turn():
    frames = parse(MessageFrames(JOB).render(LOG))
    assert [name for _, name, _ in frames] == [
        "message_start",
        *("content_block_start", "content_block_delta", "content_block_delta"),  # thinking
        *("content_block_delta", "content_block_stop"),  # its signature
        *("content_block_start", "content_block_delta", "content_block_stop"),  # text
        *("content_block_start", "content_block_delta", "content_block_delta"),  # a call
        "content_block_stop",
        *("content_block_start", "content_block_stop"),  # a call without arguments
        "message_delta",
        "message_stop",
    ]
    assert [int(number) for number, _, _ in frames] == list(range(len(frames)))
    assert all(data["type"] == name for _, name, data in frames)
    starts = [data for _, name, data in frames if name == "content_block_start"]
    assert [data["index"] for data in starts] == [0, 1, 2, 3]
    assert starts[0]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    assert starts[2]["content_block"] == {
        "type": "tool_use",
        "id": "c0",
        "name": "add",
        "input": {},
    }
    deltas = [data for _, name, data in frames if name == "content_block_delta"]
    assert [(data["index"], *data["delta"].values()) for data in deltas] == [
        (0, "thinking_delta", "Hm"),
        (0, "thinking_delta", "."),
        (0, "signature_delta", JOB.id),
        (1, "text_delta", "Wait. "),
        (2, "input_json_delta", '{"x"'),
        (2, "input_json_delta", ":1}"),
    ]
    assert frames[0][2]["message"]["usage"]["input_tokens"] == 9
    assert frames[0][2]["message"]["content"] == []
    assert frames[-2][2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert frames[-2][2]["usage"]["output_tokens"] == 5


def test_thoughts_that_are_not_to_be_seen_are_in_their_signature_alone():
    hidden = msgspec.structs.replace(JOB, echo={"hides_thinking": True})
    frames = parse(MessageFrames(hidden).render(LOG))
    deltas = [data["delta"] for _, _, data in frames if data["type"] == "content_block_delta"]
    assert "thinking_delta" not in [delta["type"] for delta in deltas]
    signature = deltas[0]["signature"]
    assert unpacked(signature) == "Hm."
    view = MessageView(hidden)
    view.add(LOG)
    assert view.response().content[0] == ThinkingBlock("", signature)
    assert [int(number) for number, _, _ in frames] == list(range(len(frames)))


def test_a_client_goes_on_behind_any_frame_also_in_the_middle_of_a_step():
    everything = parse(MessageFrames(JOB).render(LOG))
    for after in range(-1, len(everything)):
        assert parse(MessageFrames(JOB, after).render(LOG)) == everything[after + 1 :]


def test_pieces_of_a_log_make_the_frames_of_the_whole():
    frames = MessageFrames(JOB)
    assert b"".join(frames.render([event]) for event in LOG) == MessageFrames(JOB).render(LOG)


@pytest.mark.parametrize(
    ("finish", "stop", "reason"),
    [
        ("stop", None, "end_turn"),
        ("stop", "END", "stop_sequence"),
        ("length", None, "max_tokens"),
        ("tool_calls", None, "tool_use"),
    ],
)
def test_each_end_has_anthropics_name(finish, stop, reason):
    log = said(Delta(0, (1,), "a", finish, matched_stop=stop))
    message = whole(log)
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, stop)
    delta = parse(MessageFrames(JOB).render(log))[-2][2]["delta"]
    assert delta == {"stop_reason": reason, "stop_sequence": stop}


def test_an_answer_that_filled_the_context_says_so_and_not_that_it_had_its_tokens():
    spec = msgspec.structs.replace(JOB, sampling=Sampling(seed=1, max_tokens=5))
    for num_tokens, reason in ((5, "max_tokens"), (4, "model_context_window_exceeded")):
        log: list[Event] = [
            Started(0, 9),
            Tokens(1, (Delta(0, (1,), "a", "length"),)),
            Done(2, Usage(9, num_tokens)),
        ]
        frames = parse(MessageFrames(spec).render(log))
        assert frames[-2][2]["delta"]["stop_reason"] == reason
        view = MessageView(spec)
        view.add(log)
        assert view.response().stop_reason == reason


def test_text_after_a_call_is_a_block_of_its_own():
    call = CallDelta(0, "c0", "f", "{}")
    log = said(Delta(0, (1,), "a", calls=(call,)), Delta(0, (2,), "b", "stop"))
    assert [block["type"] for block in whole(log)["content"]] == ["text", "tool_use", "text"]


def test_arguments_that_are_cut_off_are_kept_as_they_are():
    log = said(Delta(0, (1,), "", "length", calls=(CallDelta(0, "c0", "f", '{"x": '),)))
    assert whole(log)["content"][0]["input"] == {"INVALID_JSON": '{"x": '}


def test_arguments_that_are_nested_too_deeply_are_kept_as_they_are():
    deep = '{"x":' + "[" * 5000 + "]" * 5000 + "}"
    log = said(Delta(0, (1,), "", "stop", calls=(CallDelta(0, "c0", "f", deep),)))
    assert whole(log)["content"][0]["input"] == {"INVALID_JSON": deep}


def test_an_answer_of_nothing_has_no_block():
    log = said(Delta(0, (1,), "", "stop"))
    assert whole(log)["content"] == []
    names = [name for _, name, _ in parse(MessageFrames(JOB).render(log))]
    assert names == ["message_start", "message_delta", "message_stop"]


def test_a_failure_is_an_error_event_whose_number_stays_free_for_a_retry():
    begun = LOG[:3]
    failed = parse(MessageFrames(JOB).render([*begun, Failed(3, "engine_error", "It broke.")]))
    number, name, data = failed[-1]
    assert (name, data["error"]) == ("error", {"type": "api_error", "message": "It broke."})
    retried = parse(MessageFrames(JOB).render([*begun, Retried(3), *LOG[3:]]))
    assert number not in [n for n, _, _ in retried]
    assert retried[: len(failed) - 1] == failed[:-1]


def test_a_failure_that_the_log_does_not_have_has_no_number():
    (frame,) = parse(MessageFrames(JOB).render([Failed(-1, "job_lost", "It is gone.")]))
    assert frame[:2] == (None, "error")


def test_a_ping_is_an_event_once_the_message_has_started():
    frames = MessageFrames(JOB)
    assert frames.ping.startswith(b":")
    frames.render(LOG[:1])
    assert frames.ping == b'event: ping\ndata: {"type": "ping"}\n\n'
