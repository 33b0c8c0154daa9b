"""Probes and models."""

import contextlib
import json

import pytest


@pytest.mark.parametrize("path", ["/", "/health", "/live", "/health/"])
def test_the_process_says_ok(api, path):
    reply = api.get(path)
    assert (reply.status, reply.body) == (200, b"OK")
    assert api.request("HEAD", path).status == 200


def test_ready_shows_the_models_and_their_gauges(api):
    reply = api.get("/ready")
    assert reply.status == 200
    assert reply.json["status"] == "ready"
    (model,) = reply.json["models"]
    assert (model["id"], model["workers"], model["kv_blocks_total"]) == ("tiny/demo", 1, 64)
    (worker,) = reply.json["workers"]
    assert {"worker", "model", "running", "waiting", "kv_blocks_used"} <= worker.keys()


def test_models_are_listed_and_found_by_names_with_slashes(api):
    (model,) = api.get("/v1/models").json["data"]
    assert (model["id"], model["object"], model["context_length"]) == ("tiny/demo", "model", 2048)
    assert api.get("/v1/models/tiny/demo").json == model
    assert api.get("/v1/models/tiny%2Fdemo").json == model


def test_options_says_what_a_route_takes(api):
    assert "POST" in api.request("OPTIONS", "/v1/chat/completions").headers["allow"]


def test_without_a_worker_work_is_refused_and_the_probe_says_why(
    redis_server, directory, start_api
):
    server = start_api(redis_server.url, directory)
    try:
        reply = server.chat("echo hi")
        assert reply.status == 503
        assert reply.json["error"]["code"] == "no_workers"
        assert int(reply.headers["retry-after"]) >= 1
        assert server.get("/ready").status == 503
        assert server.get("/ready").json["status"] == "no_workers"
        assert int(server.get("/ready").headers["retry-after"]) >= 1
        assert server.get("/v1/models").json["data"] == []
        assert server.get("/health").status == 200
    finally:
        server.kill()


@pytest.fixture(scope="module")
def limited(api_redis, directory, start_api, fake_worker, wait):
    settings = {"strict_model_names": True, "max_streams": 1, "max_queue": 1}
    server = start_api(api_redis.url, directory, **settings)
    wait(lambda: server.get("/ready").status == 200, "the worker is known")
    yield server
    server.kill()


@contextlib.contextmanager
def hanging(server):
    connection = server.connect()
    body = {"model": "tiny/demo", "messages": "hang", "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    with contextlib.closing(connection), connection.getresponse() as response:
        assert response.status == 200
        yield


def test_strict_names_serve_only_what_there_is(limited, wait):
    wait(lambda: limited.chat("echo hi", model="tiny/demo").status == 200, "the queue is empty")
    reply = limited.chat("echo hi", model="gpt-4o")
    assert reply.status == 404
    assert reply.json["error"]["code"] == "model_not_found"
    assert reply.json["error"]["param"] == "model"


def test_more_requests_than_a_process_follows_are_refused(limited, wait):
    wait(lambda: limited.chat("echo hi", model="tiny/demo").status == 200, "the queue is empty")
    with hanging(limited):
        reply = limited.chat("echo hi", model="tiny/demo")
        assert (reply.status, reply.json["error"]["code"]) == (503, "too_many_streams")
    wait(lambda: limited.chat("echo hi", model="tiny/demo").status == 200, "there is room again")


def test_a_full_queue_refuses_and_says_when_to_try_again(api, limited):
    with hanging(api):
        reply = limited.chat("echo hi", model="tiny/demo")
        assert (reply.status, reply.json["error"]["code"]) == (503, "queue_full")
        assert int(reply.headers["retry-after"]) >= 1


def test_a_server_that_follows_as_much_as_it_can_cancels_all_the_same(
    api, api_redis, directory, start_api, fake_worker
):
    full = start_api(api_redis.url, directory, max_streams=1)
    connection = full.connect()
    try:
        body = {"messages": "silent", "stream": True}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        with connection.getresponse() as response:
            streamed = response.headers["x-job-id"]
            job_id = api.request(
                "POST", "/v1/chat/completions", body, Prefer="respond-async"
            ).headers["x-job-id"]
            assert full.request("DELETE", f"/v1/jobs/{job_id}").status == 503
            assert api.get(f"/v1/jobs/{job_id}?wait=30").json["state"] == "cancelled"
            # Killed before it sees its client leave, it would leave a job that never ends.
            assert api.request("DELETE", f"/v1/jobs/{streamed}").json["state"] == "cancelled"
    finally:
        connection.close()
        full.kill()
