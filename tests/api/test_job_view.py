"""A job as its client sees it, in every state."""

from typing import Any

import msgspec
import pytest

from api.answer import Answer
from api.job_store import standing_of
from api.job_view import Standing, job_object, state_of
from api.stream import Frames
from workers.contract import (
    Delta,
    Done,
    Event,
    Failed,
    Fence,
    Job,
    Retried,
    Sampling,
    Started,
    Tokens,
    Usage,
    encode,
)

JOB = Job(
    id="cmpl-1",
    kind="completion",
    model="m",
    home="A",
    created_s=5,
    prompts=["a"],
    sampling=Sampling(seed=1),
    endpoint="/v1/completions",
    metadata={"a": "b"},
)
SAID: list[Event] = [Started(0, 3), Tokens(1, (Delta(0, (1,), "so far"),))]
CRASHED = Failed(2, "engine_crashed", "it died")


def shown(events, **standing):
    return job_object(Standing(JOB, **standing), events, "fp")


@pytest.mark.parametrize(
    ("last", "standing", "state"),
    [
        (None, {}, "queued"),
        (Fence(2, "w"), {}, "queued"),
        (None, {"is_held": True}, "running"),
        (SAID[-1], {"is_held": True}, "running"),
        (SAID[-1], {}, "queued"),
        (Done(2, Usage(1, 1)), {"is_held": True}, "completed"),
        (Failed(2, "cancelled", "x"), {}, "cancelled"),
        (Failed(2, "timeout", "x"), {}, "failed"),
        (CRASHED, {}, "failed"),
        (CRASHED, {"is_dead": True}, "dead"),
        (Retried(2), {}, "queued"),
        (Retried(2), {"is_held": True}, "running"),
    ],
)
def test_every_state_has_a_name(last, standing, state):
    assert state_of(Standing(JOB, **standing), last) == state


def test_a_job_that_waits_has_a_place_and_no_answer():
    job = shown([], place=3, eta_ms=1500, queued_ms=100)
    assert (job.queue.position, job.queue.eta_ms) == (3, 1500)
    assert (job.partial, job.result, job.error) == (None, None, None)
    assert msgspec.structs.astuple(job.timings) == (100, None, None, None, None)


def test_a_job_that_runs_shows_what_it_has_said():
    job = shown(SAID, is_held=True, place=3, queued_ms=100, started_ms=150)
    assert job.queue is None
    assert job.partial.choices[0].text == "so far"
    assert job.partial.choices[0].finish_reason is None
    assert job.result is None
    assert job.timings.wait_ms == 50


def test_a_job_that_is_done_shows_the_whole_answer():
    job = shown([*SAID, Done(2, Usage(3, 1))], queued_ms=100, started_ms=150, finished_ms=400)
    assert job.result.choices[0].text == "so far"
    assert job.result.usage.total_tokens == 4
    assert job.result.system_fingerprint == "fp"
    assert job.partial is None
    assert (job.timings.wait_ms, job.timings.run_ms) == (50, 250)


def test_a_job_that_failed_shows_why_and_what_it_had_said():
    job = shown([*SAID, CRASHED], is_dead=True)
    assert (job.state, job.error.code, job.error.type) == ("dead", "engine_crashed", "server_error")
    assert job.partial.choices[0].text == "so far"


def test_a_job_has_openais_fields():
    body = msgspec.to_builtins(shown([]))
    assert (body["id"], body["object"], body["endpoint"]) == ("cmpl-1", "job", "/v1/completions")
    assert (body["created_at"], body["model"], body["metadata"]) == (5, "m", {"a": "b"})


def reply(**fields):
    values = {
        "spec": encode(JOB),
        "last": b"",
        "is_held": 0,
        "place": 0,
        "eta_ms": -1,
        "queued": b"100",
        "started": b"",
        "finished": b"",
        "attempts": b"2",
        "crashes": b"1",
        "outcome": b"",
        "is_dead": 0,
    }
    return list((values | fields).values())


def test_what_the_script_says_becomes_a_standing():
    found: Any = standing_of(reply(place=4, eta_ms=0))
    assert found == Standing(JOB, place=4, eta_ms=0, queued_ms=100, attempts=2, crashes=1)
    assert not found.is_over
    over: Any = standing_of(reply(last=encode(CRASHED), is_dead=1, finished=b"300"))
    assert (over.last_number, over.is_dead, over.finished_ms) == (2, True, 300)


def test_a_job_whose_log_expired_is_no_more():
    assert standing_of(reply(finished=b"300")) is None


def test_a_failure_that_was_retried_is_no_end():
    log: list[Any] = [
        *SAID,
        Retried(2),
        Tokens(3, (Delta(0, (2,), " and on", "stop"),)),
        Done(4, Usage(3, 2)),
    ]
    answer = Answer(JOB)
    answer.add(log)
    answer.check()
    response: Any = answer.response()
    assert response.choices[0].text == "so far and on"
    frames = Frames(JOB, after=2).render(log).decode()
    assert [line for line in frames.split("\n") if line.startswith("id:")] == ["id: 3", "id: 4"]
    assert Frames(JOB, after=1).render([Retried(2)]) == b""
