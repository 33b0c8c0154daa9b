"""The same Idempotency-Key and body: the same job, however often and wherever it is asked for."""

import contextlib
import itertools
import json
import threading

import pytest
import redis

CHAT = "/v1/chat/completions"
_numbers = itertools.count()


@pytest.fixture
def key():
    return f"key-{next(_numbers)}"


def ask(server, key, prompt="echo one two", path=CHAT, **fields):
    named = {CHAT: "messages", "/v1/completions": "prompt", "/v1/responses": "input"}[path]
    return server.request("POST", path, {named: prompt} | fields, Idempotency_Key=key)


def at_once(*calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_second_answer_is_the_first(api, other, key, path, stream):
    first = ask(api, key, path=path, stream=stream)
    second = ask(other, key, path=path, stream=stream)
    assert (first.status, second.status) == (200, 200)
    assert first.headers["idempotent-replayed"] is None
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["x-job-id"] == first.headers["x-job-id"]
    if stream:
        assert second.frames == first.frames
    else:
        assert second.json == first.json


def test_another_body_is_a_conflict_that_no_client_should_repeat(api, other, key):
    ask(api, key)
    for reply in (ask(api, key, "echo three"), ask(other, key, stream=True)):
        assert (reply.status, reply.json["error"]["code"]) == (409, "idempotency_conflict")
        assert reply.headers["x-should-retry"] == "false"


def test_another_route_is_a_conflict_too(api, key):
    body = b'{"messages":"echo a","prompt":"echo a"}'
    assert api.request("POST", CHAT, body, Idempotency_Key=key).status == 200
    reply = api.request("POST", "/v1/completions", body, Idempotency_Key=key)
    assert (reply.status, reply.json["error"]["code"]) == (409, "idempotency_conflict")


@pytest.mark.parametrize("bad", ["", "x" * 256])
def test_a_key_that_is_none_is_refused(api, bad):
    reply = ask(api, bad)
    assert (reply.status, reply.json["error"]["param"]) == (400, "Idempotency-Key")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_twenty_at_once_are_one_job(api, other, key, fake_worker, stream):
    before = set(fake_worker.specs)
    replies = []
    servers = itertools.islice(itertools.cycle([api, other]), 20)
    calls = [
        lambda s=server: replies.append(ask(s, key, f"count 50 {key}"[:8], stream=stream))
        for server in servers
    ]
    at_once(*calls)
    assert [reply.status for reply in replies] == [200] * 20
    assert len({reply.headers["x-job-id"] for reply in replies}) == 1
    assert sum(reply.headers["idempotent-replayed"] is None for reply in replies) == 1
    answers = [reply.frames if stream else reply.json for reply in replies]
    assert all(answer == answers[0] for answer in answers)
    assert len(set(fake_worker.specs) - before) == 1


def test_a_client_that_comes_back_finds_its_job_running(api, key, fake_worker, frames):
    connection = api.connect()
    body = json.dumps({"messages": "count 200", "stream": True})
    connection.request("POST", CHAT, body, {"Idempotency-Key": key})
    with contextlib.closing(connection), connection.getresponse() as response:
        response.read1(1000)
        job_id = response.headers["x-job-id"]
    reply = api.request("POST", CHAT, body.encode(), Idempotency_Key=key)
    assert reply.headers["x-job-id"] == job_id
    words = [d["choices"][0]["delta"]["content"] for _, d in reply.frames[1:-1]]
    assert words == [f"{i} " for i in range(200)]
    assert job_id not in fake_worker.cancelled


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
def test_a_client_that_comes_back_goes_on_behind_its_last_event(api, other, key, path):
    body = {"messages" if path == CHAT else "input": "count 20", "stream": True}
    # Nobody has an event of a job that is new.
    whole = api.request("POST", path, body, Idempotency_Key=key, Last_Event_ID="7").frames
    assert whole[0][0] == 0
    rest = other.request("POST", path, body, Idempotency_Key=key, Last_Event_ID="7").frames
    assert rest == [frame for frame in whole if frame[0] > 7]
    bad = other.request("POST", path, body, Idempotency_Key=key, Last_Event_ID="x")
    assert (bad.status, bad.json["error"]["param"]) == (400, "Last-Event-ID")


def test_a_key_goes_together_with_an_answer_later(api, key):
    body = {"messages": "echo a"}
    ids = {
        api.request("POST", CHAT, body, Idempotency_Key=key, Prefer="respond-async").json["id"]
        for _ in range(2)
    }
    assert len(ids) == 1


def test_a_refused_request_leaves_its_key_free(api, key):
    refused = api.request(
        "POST", CHAT, {"messages": "echo a"}, Idempotency_Key=key, x_deadline_ms="0"
    )
    assert refused.status == 408
    assert ask(api, key, "echo b").status == 200


def test_a_key_ends_with_its_record(api, key, api_redis):
    first = ask(api, key).headers["x-job-id"]
    with redis.Redis.from_url(api_redis.url) as client:
        assert 0 < client.ttl(f"idem::{key}") <= 86400
        client.delete(f"job:{first}")
    assert ask(api, key, "echo three").headers["x-job-id"] != first


def test_a_background_response_that_is_asked_for_again_shows_how_it_stands(api, other, key):
    asked = {"path": "/v1/responses", "background": True}
    made = ask(api, key, **asked).json
    assert made["status"] == "queued"
    assert api.get(f"/v1/jobs/{made['id']}?wait=30").json["state"] == "completed"
    again = ask(other, key, **asked).json
    assert (again["id"], again["status"]) == (made["id"], "completed")
    assert again["output"][0]["content"][0]["text"] == "one two "
