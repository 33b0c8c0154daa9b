"""GET /metrics, as a Prometheus client reads it: one server's processes together, and the fleet."""

import os
import signal

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.shared_counts import PREFIX


def scrape(server, **headers):
    reply = server.get("/metrics", **headers)
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    }


def key(name, **labels):
    return name, frozenset(labels.items())


def served(server, path, status="200", method="POST"):
    return scrape(server).get(
        key("http_requests_total", method=method, path=path, status=status), 0.0
    )


CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def pair(api_redis, fake_worker, directory, start_api, wait):
    """A server of two processes."""
    server = start_api(api_redis.url, directory, web_concurrency=2)
    wait(lambda: server.get("/ready").status == 200, "the worker is known")
    yield server
    server.stop()


def test_processes_of_one_server_count_together(pair, wait):
    before = served(pair, CHAT)
    for number in range(12):
        assert pair.chat("echo hi", stream=bool(number % 2)).status == 200
    assert pair.request("POST", CHAT, b"{bad").status == 400
    wait(lambda: served(pair, CHAT) == before + 12, "all are counted, whoever is asked")
    shown = scrape(pair)
    assert shown[key("http_requests_total", method="POST", path=CHAT, status="400")] == 1
    assert shown[key("http_request_duration_seconds_count", method="POST", path=CHAT)] == 13
    assert shown[key("http_requests_in_flight")] == 1  # this one


def test_what_a_process_has_counted_outlives_it(pair, wait):
    pair.chat("echo hi")
    before = served(pair, CHAT)
    (victim, *_) = psutil.Process(pair.process.pid).children()
    victim.send_signal(signal.SIGKILL)
    wait(lambda: not victim.is_running() or victim.status() == "zombie", "it is dead")
    wait(lambda: len(psutil.Process(pair.process.pid).children()) == 2, "there is another")
    assert served(pair, CHAT) >= before > 0


def test_paths_are_routes_so_that_names_cannot_fill_the_memory(api):
    for number in range(3):
        api.get(f"/v1/jobs/chatcmpl-{number}")
        api.get(f"/nowhere/{number}")
    assert served(api, "/v1/jobs/{job_id}", "404", "GET") >= 3
    assert served(api, "none", "404", "GET") >= 3
    assert b"nowhere" not in api.get("/metrics").body


def test_the_fleet_s_gauges_are_there(api):
    shown = scrape(api)
    labels = {"model_name": "tiny/demo", "engine": "fake"}
    assert shown[key("tramontane_queue_up")] == 1
    assert shown[key("tramontane_workers", model_name="tiny/demo")] == 1
    assert shown[key("mistralrs_kv_cache_blocks_total", **labels)] == 64
    assert key("vllm:time_to_first_token_seconds_bucket", le="0.001", **labels) in shown


def test_ready_does_not_repeat_the_workers_counts(api):
    assert "counts" not in api.get("/ready").json["workers"][0]


def test_the_directory_goes_with_its_server_and_after_a_kill_with_the_next_one(
    api_redis, directory, start_api
):
    def made_by(server):
        base = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"
        return [n for n in os.listdir(base) if n.startswith(f"{PREFIX}{server.process.pid}-")]

    killed = start_api(api_redis.url, directory)
    assert len(made_by(killed)) == 1
    killed.kill()
    assert len(made_by(killed)) == 1
    stopped = start_api(api_redis.url, directory)
    assert made_by(killed) == []
    assert len(made_by(stopped)) == 1
    stopped.stop()
    assert made_by(stopped) == []


def test_only_an_admin_may_look_where_there_are_keys(api_redis, fake_worker, directory, start_api):
    server = start_api(api_redis.url, directory, api_keys="plain-key,admin:admin-key")
    try:
        assert server.get("/metrics").status == 401
        assert server.get("/metrics", authorization="Bearer plain-key").status == 403
        assert scrape(server, authorization="Bearer admin-key")
    finally:
        server.kill()


def test_without_redis_the_requests_are_shown_all_the_same(redis_server, directory, start_api):
    server = start_api(redis_server.url, directory)
    try:
        redis_server.stop()
        shown = scrape(server)
        assert shown[key("tramontane_queue_up")] == 0
        assert shown[key("http_requests_in_flight")] == 1
    finally:
        server.kill()
        redis_server.start()


def test_what_waits_is_shown_by_model_and_class(
    redis_server, directory, start_api, make_worker, wait
):
    def depth(name, service_class):
        labels = {"model_name": "tiny/demo", "service_class": service_class}
        return scrape(server)[key(f"tramontane_queue_{name}", **labels)]

    worker = make_worker(redis_server.url)
    worker.start()
    server = start_api(redis_server.url, directory, redis_timeout_s=15)
    try:
        wait(lambda: server.get("/ready").status == 200, "the worker is known")
        assert depth("jobs", "default") == depth("oldest_seconds", "default") == 0
        worker.stop()
        for service_class in ("default", "default", "batch"):
            headers = {"prefer": "respond-async", "x_priority": service_class}
            body = {"messages": "echo hi"}
            assert server.request("POST", CHAT, body, **headers).status == 202
        assert (depth("jobs", "default"), depth("jobs", "batch")) == (2, 1)
        assert depth("jobs", "interactive") == 0
        assert 0 < depth("oldest_seconds", "batch") <= depth("oldest_seconds", "default")
    finally:
        server.kill()
        worker.stop()
