"""An operator looks at what crashed, starts it again or forgets it."""

import hashlib
import json
import time

import pytest
import redis

CHAT = "/v1/chat/completions"


@pytest.fixture
def dead(api, api_redis, wait):
    """The id of a new dead letter, the only one."""
    with redis.Redis.from_url(api_redis.url) as client:
        client.delete("dead")
    reply = api.chat("crash", stream=True)
    job_id = reply.headers["x-job-id"]
    wait(lambda: job_id in ids(api), "it is a dead letter")
    return job_id


def letters(server, query=""):
    reply = server.get(f"/admin/dead{query}")
    assert reply.json["object"] == "list"
    return reply.json["data"]


def ids(server, query=""):
    return [letter["id"] for letter in letters(server, query)]


def test_a_client_hears_which_job_crashed_and_should_not_try_again(api, dead):
    reply = api.chat("crash")
    assert (reply.status, reply.json["error"]["code"]) == (500, "engine_crashed")
    assert reply.json["error"]["type"] == "server_error"
    assert reply.headers["x-job-id"] in reply.json["error"]["message"]
    assert reply.headers["x-should-retry"] == "false"
    job = api.get(f"/v1/jobs/{dead}").json
    assert (job["state"], job["error"]["code"]) == ("dead", "engine_crashed")
    assert job["partial"]["choices"][0]["message"]["content"] == "so far "


def test_a_dead_letter_says_what_happened(api, dead):
    (letter,) = letters(api)
    assert letter["id"] == dead
    assert (letter["model"], letter["tenant"], letter["endpoint"]) == ("tiny/demo", "", CHAT)
    assert (letter["attempts"], letter["last_offset"]) == (1, 2)
    assert letter["error"]["code"] == "engine_crashed"
    assert abs(letter["died_at"] - time.time()) < 60


def test_the_newest_come_first_and_so_many_as_one_asks_for(api, dead, wait):
    newer = api.chat("crash").headers["x-job-id"]
    wait(lambda: newer in ids(api), "it is a dead letter too")
    assert ids(api) == [newer, dead]
    assert ids(api, "?limit=1") == [newer]
    for bad in ("0", "x", "-1", "1001"):
        reply = api.get(f"/admin/dead?limit={bad}")
        assert (reply.status, reply.json["error"]["param"]) == (400, "limit")


def test_a_job_that_is_started_again_goes_on_where_it_ended(api, dead):
    before = api.get(f"/v1/jobs/{dead}/events").frames
    assert before[-1] == (2, "[DONE]")
    reply = api.request("POST", f"/admin/dead/{dead}/retry")
    assert (reply.status, reply.json["id"]) == (200, dead)
    assert reply.json["state"] in ("queued", "running", "completed")
    rest = api.get(f"/v1/jobs/{dead}/events", Last_Event_ID="2").frames
    assert [number for number, _ in rest] == [3, 4]
    assert rest[0][1]["choices"][0]["delta"]["content"] == "and on"
    whole = api.get(f"/v1/jobs/{dead}?wait=20").json
    assert (whole["state"], whole["error"], whole["attempts"]) == ("completed", None, 2)
    assert whole["result"]["choices"][0]["message"]["content"] == "so far and on"
    replay = api.get(f"/v1/jobs/{dead}/events").frames
    assert [number for number, _ in replay] == [0, 1, 3, 4]
    assert "error" not in json.dumps([data for _, data in replay])
    assert ids(api) == []


def test_a_job_is_started_again_once(api, dead, fake_worker):
    fake_worker.is_paused = True
    try:
        statuses = [api.request("POST", f"/admin/dead/{dead}/retry").status for _ in range(2)]
        assert statuses == [200, 404]
        assert api.get(f"/v1/jobs/{dead}").json["state"] == "queued"
    finally:
        fake_worker.is_paused = False
    assert api.get(f"/v1/jobs/{dead}?wait=20").json["attempts"] == 2


def test_a_response_is_started_again_in_its_own_form(api, wait):
    reply = api.request("POST", "/v1/responses", {"input": "crash", "stream": True})
    job_id = reply.headers["x-job-id"]
    wait(lambda: job_id in ids(api), "it is a dead letter")
    last = reply.frames[-1][0]
    assert api.request("POST", f"/admin/dead/{job_id}/retry").status == 200
    rest = api.get(f"/v1/jobs/{job_id}/events?starting_after={last}").frames
    assert [number for number, _ in rest] == list(range(last + 1, last + 1 + len(rest)))
    assert rest[-1][1]["type"] == "response.completed"


def test_a_dead_letter_can_be_forgotten_and_its_failure_stays(api, dead):
    reply = api.request("DELETE", f"/admin/dead/{dead}")
    assert (reply.status, reply.json["deleted"]) == (200, True)
    assert ids(api) == []
    assert api.get(f"/v1/jobs/{dead}").json["error"]["code"] == "engine_crashed"
    for method, path in (("DELETE", ""), ("POST", "/retry")):
        reply = api.request(method, f"/admin/dead/{dead}{path}")
        assert (reply.status, reply.json["error"]["code"]) == (404, "job_not_found")


def test_what_expired_is_dropped_from_the_list(api, dead, api_redis):
    with redis.Redis.from_url(api_redis.url) as client:
        client.delete(f"job:{dead}")
        client.zadd("dead", {"never-was": 1})
        assert ids(api) == []
        assert client.zcard("dead") == 0
    assert api.request("POST", f"/admin/dead/{dead}/retry").status == 404


def test_it_is_for_admins_only(api_redis, directory, start_api, fake_worker, dead):
    path = directory / "admins.toml"
    entry = '[[keys]]\ntenant = "{}"\nhash = "sha256:{}"\n{}\n'
    rights = {"ops": "admin = true", "user": ""}
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in rights}
    path.write_text("".join(entry.format(n, hashes[n], rest) for n, rest in rights.items()))
    server = start_api(api_redis.url, directory, api_keys_file=str(path))
    calls = [("GET", ""), ("POST", f"/{dead}/retry"), ("DELETE", f"/{dead}")]
    try:
        for method, rest in calls:
            reply = server.request(method, f"/admin/dead{rest}", Authorization="Bearer user")
            assert (reply.status, reply.json["error"]["code"]) == (403, "permission_denied")
        reply = server.get("/admin/dead", Authorization="Bearer ops")
        assert [letter["id"] for letter in reply.json["data"]] == [dead]
        retried = server.request("POST", f"/admin/dead/{dead}/retry", Authorization="Bearer ops")
        assert retried.status == 200
    finally:
        server.kill()
