"""Log-probabilities in OpenAI's two shapes, whole and streamed."""

import math

import pytest

from api.answer import Answer
from api.schema.response import TextChoice
from api.stream import Frames
from tests.api.test_stream import job, parse, text_job
from workers.contract import Delta, Done, Event, Sampling, Started, TokenLogprob, Tokens, Usage

A = TokenLogprob(b"a", -0.5, ((b"a", -0.5), (b"b", -1.5)))
HALF = TokenLogprob("é".encode()[:1], -2.0, ((b"b", -0.1),))
REST = TokenLogprob("é".encode()[1:], -math.inf, ())

LOG: list[Event] = [
    Started(0, 3),
    Tokens(1, (Delta(0, (1,), "a", None, (A,)),)),
    Tokens(2, (Delta(0, (2,), "", None, (HALF,)),)),
    Tokens(3, (Delta(0, (3,), "é", "stop", (REST,)),)),
    Done(4, Usage(3, 3)),
]
ECHO = TokenLogprob(b"hi", None), TokenLogprob(b" there", -3.0, ((b"!", -0.2),))


def with_logprobs(make, **fields):
    return make(sampling=Sampling(seed=1, logprobs=2), **fields)


def whole(of, log):
    answer = Answer(of)
    answer.add(log)
    return answer.response().choices[0].logprobs


def test_a_chat_s_tokens_with_their_bytes():
    content = whole(with_logprobs(job), LOG).content
    assert [(t.token, t.logprob, t.bytes) for t in content] == [
        ("a", -0.5, [97]),
        ("�", -2.0, [195]),
        ("�", -9999.0, [169]),
    ]
    assert [(t.token, t.logprob, t.bytes) for t in content[0].top_logprobs] == [
        ("a", -0.5, [97]),
        ("b", -1.5, [98]),
    ]


def test_a_completion_s_tokens_in_columns():
    told = whole(with_logprobs(text_job), LOG)
    assert told.tokens == ["a", "bytes:\\xc3", "bytes:\\xa9"]
    assert told.token_logprobs == [-0.5, -2.0, -9999.0]
    assert told.text_offset == [0, 1, 2]
    assert told.top_logprobs == [
        {"a": -0.5, "b": -1.5},
        {"b": -0.1, "bytes:\\xc3": -2.0},
        {"bytes:\\xa9": -9999.0},
    ]


def test_an_echoed_prompt_s_first_token_has_none():
    log = [LOG[0], Tokens(1, (Delta(0, (), "hi there", None, ECHO, True),)), *LOG[1:]]
    told = whole(with_logprobs(text_job, shows_prompt=True), log)
    assert told.tokens[:3] == ["hi", " there", "a"]
    assert told.token_logprobs[:3] == [None, -3.0, -0.5]
    assert told.top_logprobs[:2] == [None, {"!": -0.2, " there": -3.0}]
    assert told.text_offset[:3] == [0, 2, 8]


@pytest.mark.parametrize("make", [job, text_job])
def test_without_being_asked_there_are_none(make):
    plain: list[Event] = [
        Started(0, 3),
        Tokens(1, (Delta(0, (1,), "a", "stop"),)),
        Done(2, Usage(3, 1)),
    ]
    assert whole(make(), plain) is None
    assert parse(Frames(make()).render(plain))[-2][1]["choices"][0]["logprobs"] is None


def streamed(of, after=-1):
    frames = parse(Frames(of, after=after).render(LOG))
    return [f["choices"][0]["logprobs"] for _, f in frames if f != "[DONE]"]


def test_a_stream_tells_each_token_once_even_without_text():
    first, *told = streamed(with_logprobs(job))
    assert first is None
    assert [t["content"][0]["bytes"] for t in told] == [[97], [195], [169]]


def test_a_stream_s_offsets_go_on_after_a_resume():
    all_told = streamed(with_logprobs(text_job))
    assert [t["text_offset"] for t in all_told] == [[0], [1], [2]]
    assert streamed(with_logprobs(text_job), after=1) == all_told[1:]


def text_of(choice):
    assert isinstance(choice, TextChoice)
    return choice.text


def scored(*values):
    return tuple(TokenLogprob(b"x", value) for value in values)


def test_the_most_probable_of_each_prompt_s_answers_are_shown_best_first():
    of = text_job(
        **{"sampling": Sampling(seed=1, logprobs=0), "prompts": ["a", "b"], "n": 3, "best": 2},
        hides_logprobs=True,
    )
    values = [(-1.0, -1.0), (-0.1, -4.0), (-0.5,), (-9.0,), (-3.0, -3.0, -3.0), (-2.0, -5.0)]
    log = [
        Tokens(c + 1, (Delta(c, (1,) * len(v), str(c), "stop", scored(*v)),))
        for c, v in enumerate(values)
    ]
    answer = Answer(of)
    answer.add([*log, Done(7, Usage(2, 12))])
    shown = answer.response()
    assert [(c.index, text_of(c)) for c in shown.choices] == [
        (0, "2"),
        (1, "0"),
        (2, "4"),
        (3, "5"),
    ]
    assert all(c.logprobs is None for c in shown.choices)
    assert shown.usage is not None
    assert shown.usage.completion_tokens == 12


def test_an_echoed_prompt_does_not_count_for_the_best():
    of = text_job(sampling=Sampling(seed=1, logprobs=0), n=2, best=1, shows_prompt=True)
    log = [
        Tokens(
            1,
            (
                Delta(0, (), "p", None, scored(-0.0), True),
                Delta(0, (1,), "a", "stop", scored(-2.0)),
            ),
        ),
        Tokens(
            3,
            (
                Delta(1, (), "p", None, scored(-9.0), True),
                Delta(1, (1,), "b", "stop", scored(-1.0)),
            ),
        ),
    ]
    answer = Answer(of)
    answer.add(log)
    assert [text_of(c) for c in answer.response().choices] == ["pb"]
