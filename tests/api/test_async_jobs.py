"""Work that nobody has to wait for: asked for, looked at, followed, stopped."""

import contextlib
import json
import threading
import time

import pytest
import redis

from workers import contract

CHAT = "/v1/chat/completions"
ASYNC = {"Prefer": "respond-async"}


@pytest.fixture
def paused(fake_worker):
    fake_worker.is_paused = True
    yield
    fake_worker.is_paused = False


def ask(server, prompt, path=CHAT, prefer="respond-async", **fields):
    body = {"prompt": prompt} if path.endswith("/v1/completions") else {"messages": prompt}
    if path.endswith("/responses"):
        body = {"input": prompt}
    return server.request("POST", path, body | fields, Prefer=prefer)


def look(server, job_id, query=""):
    return server.get(f"/v1/jobs/{job_id}{query}").json


def ended(server, job_id):
    job = look(server, job_id, "?wait=30")
    assert job["state"] not in ("queued", "running")
    return job


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (CHAT, "chat.completion"),
        ("/v1/completions", "text_completion"),
        ("/v1/responses", "response"),
    ],
)
def test_an_answer_can_be_fetched_later_in_the_form_of_its_endpoint(api, other, path, kind):
    reply = ask(api, "echo one two", path)
    assert reply.status == 202
    job_id = reply.json["id"]
    assert reply.headers["location"] == f"/v1/jobs/{job_id}"
    assert reply.headers["preference-applied"] == "respond-async"
    assert reply.headers["x-job-id"] == job_id
    assert reply.json["object"] == "job"
    assert reply.json["state"] in ("queued", "running", "completed")
    job = ended(other, job_id)
    assert (job["state"], job["endpoint"], job["model"]) == ("completed", path, "tiny/demo")
    assert job["result"]["object"] == kind
    assert "one two " in json.dumps(job["result"])
    assert (job["partial"], job["error"], job["queue"], job["attempts"]) == (None, None, None, 1)


def test_the_times_of_a_job_are_told(api, wait):
    job_id = ask(api, "echo one two").json["id"]
    ended(api, job_id)
    wait(lambda: look(api, job_id)["timings"]["finished_ms"], "the end is noted")
    times = look(api, job_id)["timings"]
    assert times["queued_ms"] <= times["finished_ms"]
    assert abs(times["finished_ms"] / 1000 - time.time()) < 60


def test_a_job_that_waits_shows_its_place(api, paused):
    first, second = (ask(api, "echo a").json for _ in range(2))
    assert (first["state"], second["state"]) == ("queued", "queued")
    place = first["queue"]["position"]
    assert second["queue"]["position"] == place + 1
    assert second["queue"]["eta_ms"] is None or second["queue"]["eta_ms"] >= 0
    assert (second["partial"], second["result"], second["error"]) == (None, None, None)


def test_a_job_shows_what_it_has_said_so_far(api, fake_worker, wait):
    job_id = ask(api, "hang on").json["id"]

    def said():
        partial = look(api, job_id)["partial"]
        return partial and partial["choices"][0]["message"]["content"]

    wait(lambda: said() == "then nothing", "it is shown")
    job = look(api, job_id)
    assert (job["state"], job["result"]) == ("running", None)
    stopped = api.request("DELETE", f"/v1/jobs/{job_id}").json
    assert stopped["state"] == "cancelled"
    assert stopped["partial"]["choices"][0]["message"]["content"] == "then nothing"


def test_nobody_has_to_listen(api, fake_worker, wait):
    reply = ask(api, "count 100", stream=True)
    assert reply.status == 202
    assert ended(api, reply.json["id"])["state"] == "completed"
    assert fake_worker.specs[reply.json["id"]].is_detached
    assert reply.json["id"] not in fake_worker.cancelled


def test_a_quick_answer_is_given_at_once_to_whoever_waits_a_little(api):
    reply = ask(api, "echo one", prefer="respond-async, wait=30")
    assert (reply.status, reply.json["object"]) == (200, "chat.completion")
    assert reply.json["choices"][0]["message"]["content"] == "one "
    assert ask(api, "fail engine_error", prefer="respond-async, wait=30").status == 500


def test_a_slow_answer_comes_later_even_to_whoever_waits_a_little(api):
    began_s = time.monotonic()
    reply = ask(api, "hang", prefer="respond-async, wait=1")
    assert time.monotonic() - began_s >= 1
    assert (reply.status, reply.json["state"]) == (202, "running")
    api.request("DELETE", reply.headers["location"])


def test_a_look_can_wait_for_the_end(api):
    job_id = ask(api, "count 100").json["id"]
    assert look(api, job_id, "?wait=30")["state"] == "completed"
    began_s = time.monotonic()
    assert look(api, job_id, "?wait=30")["state"] == "completed"
    assert time.monotonic() - began_s < 5


def test_a_look_that_waits_ends_with_its_time(api):
    job_id = ask(api, "hang").json["id"]
    assert look(api, job_id, "?wait=1")["state"] == "running"
    for bad in ("x", "-1", "1.5"):
        reply = api.get(f"/v1/jobs/{job_id}?wait={bad}")
        assert (reply.status, reply.json["error"]["param"]) == (400, "wait")
    api.request("DELETE", f"/v1/jobs/{job_id}")


def test_a_look_at_what_has_not_changed_is_short(api, wait):
    job_id = ask(api, "echo a").json["id"]
    ended(api, job_id)
    wait(lambda: look(api, job_id)["timings"]["finished_ms"], "the end is noted")
    reply = api.get(f"/v1/jobs/{job_id}")
    assert reply.headers["cache-control"] == "no-cache"
    again = api.get(f"/v1/jobs/{job_id}", If_None_Match=reply.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert api.get(f"/v1/jobs/{job_id}", If_None_Match="*").status == 304
    assert api.get(f"/v1/jobs/{job_id}", If_None_Match='"other"').status == 200


def test_metadata_comes_back(api):
    reply = ask(api, "echo a", metadata={"order": "7"})
    assert reply.json["metadata"] == {"order": "7"}
    bad = api.chat("echo a", metadata={"order": 7})
    assert (bad.status, bad.json["error"]["param"]) == (400, "metadata")


def test_a_job_that_waits_can_be_stopped(api, fake_worker, paused):
    job_id = ask(api, "echo a").json["id"]
    for _ in range(2):
        reply = api.request("DELETE", f"/v1/jobs/{job_id}")
        assert (reply.status, reply.json["state"]) == (200, "cancelled")
        assert reply.json["error"]["code"] == "cancelled"
    assert look(api, job_id)["state"] == "cancelled"
    assert job_id not in fake_worker.specs


def test_a_job_that_is_over_stays_as_it_ended(api):
    job_id = ask(api, "echo a").json["id"]
    ended(api, job_id)
    reply = api.request("DELETE", f"/v1/jobs/{job_id}")
    assert (reply.status, reply.json["state"]) == (200, "completed")


def test_whoever_waits_hears_that_a_job_was_stopped(api, other):
    connection = api.connect()
    connection.request("POST", CHAT, json.dumps({"messages": "hang", "stream": True}))
    with contextlib.closing(connection), connection.getresponse() as response:
        response.read1(65536)
        other.request("DELETE", f"/v1/jobs/{response.headers['x-job-id']}")
        assert b'"code":"cancelled"' in response.read()


def test_a_cancel_that_races_with_the_end_leaves_one_end(api, api_redis):
    jobs = [ask(api, f"count {10 + i}").json["id"] for i in range(30)]
    stops = [
        threading.Thread(target=api.request, args=("DELETE", f"/v1/jobs/{job}")) for job in jobs
    ]
    for stop in stops:
        stop.start()
    for stop in stops:
        stop.join()
    states = {job: ended(api, job)["state"] for job in jobs}
    assert set(states.values()) <= {"completed", "cancelled"}
    with redis.Redis.from_url(api_redis.url) as client:
        for job_id, state in states.items():
            log = [contract.decode_event(e) for e in client.lrange(f"log:{job_id}", 0, -1)]
            assert [contract.is_terminal(e) for e in log] == [False] * (len(log) - 1) + [True]
            assert isinstance(log[-1], contract.Done) == (state == "completed")


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses"])
def test_a_stream_is_replayed_as_its_endpoint_would_have_sent_it(api, other, path):
    body = {"stream": True}
    own = ask(api, "echo one two", path, prefer="", **body)
    job_id = own.headers["x-job-id"]
    replay = other.get(f"/v1/jobs/{job_id}/events")
    assert replay.frames == own.frames
    last = own.frames[-1][0]
    rest = other.get(f"/v1/jobs/{job_id}/events?starting_after={last - 1}").frames
    assert [number for number, _ in rest] == [last]
    assert other.get(f"/v1/jobs/{job_id}/events?starting_after={last}").status == 204
    beyond = other.get(f"/v1/jobs/{job_id}/events", Last_Event_ID=str(last + 1))
    assert (beyond.status, beyond.json["error"]["param"]) == (400, "starting_after")
    assert other.get(f"/v1/jobs/{job_id}/events?starting_after=-1").status == 400


def test_behind_the_end_of_what_still_runs_one_waits(api, other):
    job_id = ask(api, "count 300").json["id"]
    frames = other.get(f"/v1/jobs/{job_id}/events?starting_after=290").frames
    assert [number for number, _ in frames] == list(range(291, 302))


def test_many_read_at_once(api, other):
    job_id = ask(api, "count 200").json["id"]
    bodies = []
    readers = [
        threading.Thread(
            target=lambda s=server: bodies.append(s.get(f"/v1/jobs/{job_id}/events").body)
        )
        for server in (api, other) * 5
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    pure = {b"\n\n".join(b for b in body.split(b"\n\n") if b[:1] != b":") for body in bodies}
    assert len(bodies) == 10
    assert len(pure) == 1


def test_what_is_not_there_is_404(api):
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
        reply = api.request(method, f"/v1/jobs/chatcmpl-none{path}")
        assert (reply.status, reply.json["error"]["code"]) == (404, "job_not_found")
