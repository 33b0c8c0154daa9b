"""Events become frames: OpenAI's shape, a number per event, nothing twice after a resume."""

import json
from typing import Any

import pytest

from api.answer import Answer
from api.errors import ApiError
from api.stream import Frames
from workers.contract import (
    Delta,
    Done,
    Event,
    Failed,
    Fence,
    Job,
    Sampling,
    Started,
    Tokens,
    Usage,
)


def job(**fields):
    spec: dict[str, Any] = {
        "id": "chatcmpl-1",
        "kind": "chat",
        "model": 'a"b',
        "home": "x",
        "created_s": 5,
    }
    return Job(**spec | {"sampling": Sampling(seed=1), "messages": []} | fields)


def text_job(**fields):
    return job(**{"kind": "completion", "messages": None, "prompts": ["a"]} | fields)


def parse(data):
    frames = []
    for block in data.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        end = fields["data"] == "[DONE]"
        frames.append((fields.get("id"), "[DONE]" if end else json.loads(fields["data"])))
    return frames


LOG: list[Event] = [
    Started(0, 3),
    Tokens(1, (Delta(0, (1,), "a"), Delta(1, (2,), '\u00e9\n\u2028"\\'))),
    Fence(2, "w"),
    Tokens(3, (Delta(0, (3,), ""),)),
    Tokens(4, (Delta(0, (4,), "", "length"), Delta(1, (4,), "z", "stop"))),
    Done(6, Usage(3, 5, 1)),
]


def test_a_chat_of_two_choices():
    frames = parse(Frames(job(n=2), "fp").render(LOG))
    assert [number for number, _ in frames] == [None, "0", "1", "2", "4", "5", "6"]
    choices = [data["choices"][0] for _, data in frames[:-1]]
    assert [c["index"] for c in choices] == [0, 1, 0, 1, 0, 1]
    assert [c["delta"].get("role") for c in choices[:3]] == ["assistant", "assistant", None]
    assert choices[3]["delta"]["content"] == '\u00e9\n\u2028"\\'
    assert [c["finish_reason"] for c in choices] == [None, None, None, None, "length", "stop"]
    assert frames[-1][1] == "[DONE]"
    first = frames[0][1]
    assert (first["model"], first["created"], first["system_fingerprint"]) == ('a"b', 5, "fp")


def test_the_same_events_one_by_one_give_the_same_bytes():
    whole, split = Frames(job(n=2)), Frames(job(n=2))
    assert b"".join(split.render([event]) for event in LOG) == whole.render(LOG)


@pytest.mark.parametrize("after", range(-1, 7))
def test_a_resume_shows_what_comes_behind_the_last_number(after):
    frames = parse(Frames(job(n=2)).render(LOG))
    numbers = [number for number, _ in frames if number is not None and int(number) > after]
    rest = parse(Frames(job(n=2), after=after).render(LOG))
    assert [number for number, _ in rest if number is not None] == (numbers or ["6"])


def test_usage_has_a_chunk_of_its_own_that_is_repeated_until_the_end_arrived():
    frames = parse(Frames(job(n=2, include_usage=True), after=5).render(LOG))
    (number, usage), (last, end) = frames
    assert (number, last, end) == (None, "6", "[DONE]")
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 8
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}


def test_a_text_job_has_text_and_no_role():
    frames = parse(Frames(text_job(n=2)).render(LOG))
    assert frames[0][1]["object"] == "text_completion"
    assert [data["choices"][0]["text"] for _, data in frames[:2]] == ["a", '\u00e9\n\u2028"\\']


def test_a_failure_is_an_error_frame_with_its_number_on_the_end():
    frames = parse(Frames(job()).render([LOG[0], Failed(1, "timeout", "too slow")]))
    assert frames[1][1]["error"]["code"] == "timeout"
    assert frames[2] == ("1", "[DONE]")


def test_a_failure_that_is_not_in_the_log_takes_no_number():
    frames = parse(Frames(job()).render([Failed(-1, "job_lost", "gone")]))
    assert [number for number, _ in frames] == [None, None]


def test_the_whole_answer_is_the_streams_text():
    answer = Answer(job(n=2), "fp")
    answer.add(LOG[:3])
    answer.add(LOG[3:])
    response: Any = answer.response()
    assert [c.message.content for c in response.choices] == ["a", '\u00e9\n\u2028"\\z']
    assert [c.finish_reason for c in response.choices] == ["length", "stop"]
    assert response.usage.completion_tokens == 5
    assert response.object == "chat.completion"
    answer.check()


def test_a_whole_text_answer():
    answer = Answer(text_job(n=2))
    answer.add(LOG)
    response: Any = answer.response()
    assert [c.text for c in response.choices] == ["a", '\u00e9\n\u2028"\\z']
    assert response.system_fingerprint is None


def test_an_answer_that_failed_raises():
    answer = Answer(job())
    answer.add([Failed(0, "invalid_value", "bad", "messages")])
    with pytest.raises(ApiError) as caught:
        answer.check()
    assert (caught.value.status, caught.value.param) == (400, "messages")


def test_usage_in_every_chunk_if_that_is_asked():
    frames = [f for _, f in parse(Frames(job(n=2, includes_usage_always=True)).render(LOG))]
    counts = [f["usage"]["completion_tokens"] for f in frames if f != "[DONE]"]
    assert counts == [0, 0, 1, 2, 4, 5]
    assert all(f["usage"]["prompt_tokens"] == 3 for f in frames if f != "[DONE]")
    resumed = parse(Frames(job(n=2, includes_usage_always=True), after=3).render(LOG))
    assert [f for _, f in resumed] == frames[4:]
