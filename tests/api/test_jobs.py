"""Any stream, from any event on, on any API process."""

import contextlib
import json

import pytest


def events(server, job_id, **headers):
    return server.get(f"/v1/jobs/{job_id}/events", **headers)


@pytest.fixture
def finished(api):
    reply = api.chat("echo one two three", stream=True)
    return reply.headers["x-job-id"], reply.frames


def test_a_finished_stream_can_be_read_again_elsewhere(other, finished):
    job_id, frames = finished
    assert events(other, job_id).frames == frames


@pytest.mark.parametrize("last", [0, 1, 2, 3])
def test_it_goes_on_behind_the_last_event_that_the_client_has(api, other, finished, last):
    job_id, frames = finished
    rest = [frame for frame in frames if frame[0] > last]
    assert events(other, job_id, Last_Event_ID=str(last)).frames == rest
    assert api.get(f"/v1/jobs/{job_id}/events?starting_after={last}").frames == rest


def test_when_all_was_said_an_event_source_is_told_to_stop(other, finished):
    job_id, frames = finished
    reply = events(other, job_id, Last_Event_ID=str(frames[-1][0]))
    assert reply.status == 204
    assert reply.body == b""


def test_a_whole_answer_can_be_read_as_a_stream_in_its_own_shape(api, other):
    reply = api.request("POST", "/v1/completions", {"prompt": "echo a b"})
    frames = events(other, reply.json["id"]).frames
    assert [data["choices"][0]["text"] for _, data in frames[:-1]] == ["a ", "b "]


def test_usage_is_part_of_the_replay_if_it_was_asked_for(api, other):
    reply = api.chat("echo a", stream=True, stream_options={"include_usage": True})
    assert events(other, reply.headers["x-job-id"]).frames == reply.frames


def test_a_failed_job_replays_its_failure(api, other):
    reply = api.chat("fail_late engine_error", stream=True)
    assert events(other, reply.headers["x-job-id"]).frames == reply.frames


def test_a_running_job_is_followed_live_by_another_process(api, other, frames):
    connection = api.connect()
    body = {"messages": "count 300", "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    with contextlib.closing(connection), connection.getresponse() as response:
        reply = events(other, response.headers["x-job-id"])
        own = response.read()
    words = [d["choices"][0]["delta"]["content"] for _, d in reply.frames[1:-1]]
    assert words == [f"{i} " for i in range(300)]
    assert reply.frames == frames(own)


def test_a_connection_is_free_again_after_a_stream(api, finished):
    job_id, _ = finished
    connection = api.connect(timeout=3)
    with contextlib.closing(connection):
        for _ in range(3):
            connection.request("GET", f"/v1/jobs/{job_id}/events")
            assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
            connection.request("GET", "/health")
            assert connection.getresponse().read() == b"OK"


def test_a_reader_that_leaves_does_not_end_the_job(api, other, fake_worker, wait):
    connection = api.connect()
    body = {"messages": "count 200", "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    with contextlib.closing(connection), connection.getresponse() as response:
        job_id = response.headers["x-job-id"]
        second = other.connect()
        second.request("GET", f"/v1/jobs/{job_id}/events")
        with contextlib.closing(second), second.getresponse() as reader:
            reader.read1(100)
        assert b"199 " in response.read()
    assert job_id not in fake_worker.cancelled
