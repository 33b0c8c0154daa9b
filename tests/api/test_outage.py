"""Redis goes away and comes back; a worker's step is lost; a subscription is killed."""

import contextlib
import json
import time

import pytest
import redis


@pytest.fixture
def server(redis_server, directory, start_api, make_worker, wait):
    worker = make_worker(redis_server.url, step_s=0.02)
    worker.start()
    server = start_api(redis_server.url, directory, ping_s=0.2)
    wait(lambda: server.get("/ready").status == 200, "the worker is known")
    yield server
    worker.stop()
    server.kill()
    assert "Traceback" not in server.log.read_text()


@contextlib.contextmanager
def counting(server, total):
    connection = server.connect()
    body = {"messages": f"count {total}", "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    with contextlib.closing(connection), connection.getresponse() as response:
        yield response


def words(frames):
    return [d["choices"][0]["delta"]["content"] for _, d in frames[1:-1]]


def test_a_stream_outlives_a_restart_of_redis_and_new_work_is_refused_meanwhile(
    server, redis_server, frames, wait
):
    with counting(server, 60) as response:
        received = response.read1(4096)
        redis_server.stop()
        started_s = time.monotonic()
        reply = server.chat("echo hi")
        assert time.monotonic() - started_s < 1.2
        assert (reply.status, reply.json["error"]["code"]) == (503, "queue_unavailable")
        assert int(reply.headers["retry-after"]) >= 1
        probe = server.get("/ready")
        assert (probe.status, int(probe.headers["retry-after"]) >= 1) == (503, True)
        assert server.get("/v1/models").status in (200, 503)
        assert server.get("/health").status == 200
        while b": ping" not in received:
            received += response.read1(4096)
        redis_server.start()
        received += response.read()
    assert words(frames(received)) == [f"{i} " for i in range(60)]
    wait(lambda: server.chat("echo hi").status == 200, "new work is taken again")


def test_a_killed_subscription_costs_no_event(server, redis_server, frames):
    with redis.Redis.from_url(redis_server.url) as admin, counting(server, 60) as response:
        received = response.read1(4096)
        for _ in range(5):
            admin.client_kill_filter(_type="pubsub")
            received += response.read1(4096)
        received += response.read()
    assert words(frames(received)) == [f"{i} " for i in range(60)]


def test_a_full_redis_refuses_new_work_and_lets_the_old_be_cancelled(server, redis_server, wait):
    with redis.Redis.from_url(redis_server.url) as admin:
        with counting(server, 10**6) as response:
            response.read1(4096)
            admin.config_set("maxmemory", 1)
            reply = server.chat("echo hi")
            assert (reply.status, reply.json["error"]["code"]) == (503, "queue_memory_full")
            assert int(reply.headers["retry-after"]) >= 1
        admin.config_set("maxmemory", 0)
    wait(lambda: server.chat("echo hi").status == 200, "new work is taken again")


def test_a_job_that_redis_forgot_ends_with_an_error(server, redis_server, frames):
    body = {"messages": "silent", "stream": True}
    connection = server.connect()
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    with contextlib.closing(connection), connection.getresponse() as response:
        with redis.Redis.from_url(redis_server.url) as admin:
            admin.delete(f"job:{response.headers['x-job-id']}")
        (_, error), (_, end) = frames(response.read())
    assert error["error"]["code"] == "job_lost"
    assert end == "[DONE]"


def test_an_outage_is_told_once_however_long_it_is(server, redis_server, frames, wait):
    with counting(server, 200) as response:
        received = response.read1(4096)
        redis_server.stop()
        sentence = "logs cannot be read, trying again"
        wait(lambda: sentence in server.log.read_text(), "the outage is noticed")
        time.sleep(1)  # ten more tries
        redis_server.start()
        received += response.read()
    assert words(frames(received)) == [f"{i} " for i in range(200)]
    lines = [line for line in server.log.read_text().splitlines() if " WARNING api." in line]
    assert sorted(line.split(": ", 2)[1] for line in lines) == [
        "logs can be read again",
        "logs cannot be read, trying again",
        "subscribed again",
        "the subscription was lost; trying again",
    ]
