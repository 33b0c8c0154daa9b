"""How much is let in: per tenant, for the fleet, before a deadline, and into Redis' memory."""

import contextlib
import hashlib
import json

import pytest
import redis

CHAT = "/v1/chat/completions"
TENANTS = {
    "busy": "max_jobs = 2",
    "slow": "requests_per_min = 3",
    "short": "tokens_per_min = 300",
    "low": 'service_class = "batch"',
    "free": "",
    "boss": "admin = true",
}


def bearer(tenant):
    return {"Authorization": f"Bearer key-of-{tenant}"}


@pytest.fixture(scope="module")
def server(api_redis, directory, start_api, fake_worker, wait):
    path = directory / "limits.toml"
    entry = '[[keys]]\ntenant = "{}"\nhash = "sha256:{}"\n{}\n'
    path.write_text(
        "".join(
            entry.format(name, hashlib.sha256(f"key-of-{name}".encode()).hexdigest(), rest)
            for name, rest in TENANTS.items()
        )
    )
    server = start_api(api_redis.url, directory, api_keys_file=str(path), max_queue_tokens=5000)
    wait(lambda: server.get("/ready").status == 200, "the fake worker is known")
    yield server
    server.kill()


@pytest.fixture
def paused(fake_worker, server, api_redis, wait):
    with redis.Redis.from_url(api_redis.url) as client:
        wait(lambda: client.zcard("q:tiny/demo") == 0, "the queue is empty")
    fake_worker.is_paused = True
    yield
    fake_worker.is_paused = False


def ask(server, tenant, prompt="echo hi", **headers):
    names = bearer(tenant) | headers
    return server.request("POST", CHAT, {"messages": prompt, "max_tokens": 10}, **names)


def later(server, tenant, prompt="echo hi", **headers):
    return ask(server, tenant, prompt, Prefer="respond-async", **headers)


def code_of(reply):
    return reply.status, reply.json["error"]["code"]


def test_a_tenant_has_so_many_jobs_at_a_time(server, paused, fake_worker, wait):
    jobs = [later(server, "busy") for _ in range(2)]
    assert [job.status for job in jobs] == [202, 202]
    refused = later(server, "busy")
    assert code_of(refused) == (429, "tenant_queue_full")
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    assert later(server, "free").status == 202
    fake_worker.is_paused = False
    wait(lambda: ask(server, "busy").status == 200, "there is room again")


def test_a_tenant_has_so_many_requests_a_minute_and_hears_of_it(server):
    replies = [ask(server, "slow") for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    left = [reply.headers["x-ratelimit-remaining-requests"] for reply in replies]
    assert left == ["2", "1", "0", "0"]
    assert {reply.headers["x-ratelimit-limit-requests"] for reply in replies} == {"3"}
    assert code_of(replies[3]) == (429, "rate_limit_exceeded")
    assert 1 <= int(replies[3].headers["retry-after"]) <= 20
    assert "requests per minute" in replies[3].json["error"]["message"]
    assert replies[3].headers["x-should-retry"] is None
    assert replies[0].headers["x-ratelimit-limit-tokens"] is None


def test_a_tenant_has_so_many_tokens_a_minute(server):
    first = ask(server, "short", "echo " + "x" * 800)
    assert first.headers["x-ratelimit-limit-tokens"] == "300"
    assert int(first.headers["x-ratelimit-remaining-tokens"]) <= 300 - 210
    second = later(server, "short", "echo " + "x" * 1600)
    assert code_of(second) == (429, "rate_limit_exceeded")
    assert "tokens per minute" in second.json["error"]["message"]
    assert int(second.headers["x-ratelimit-remaining-tokens"]) < 300


def test_without_limits_there_are_no_headers(server):
    assert not [name for name in ask(server, "free").headers if name.startswith("x-ratelimit")]


def test_a_background_response_enters_on_the_same_terms(server, paused, fake_worker):
    body = {"input": "echo hi", "background": True, "service_tier": "flex"}
    replies = [
        server.request("POST", "/v1/responses", body, **bearer("busy"), **headers)
        for headers in ({"Idempotency_Key": "b"}, {"Idempotency_Key": "b"}, {}, {})
    ]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert replies[0].json["id"] == replies[1].json["id"] != replies[2].json["id"]
    assert replies[1].headers["idempotent-replayed"] == "true"
    assert code_of(replies[3]) == (429, "tenant_queue_full")


def test_the_fleet_takes_so_many_prompt_tokens(server, paused):
    assert later(server, "free", "echo " + "x" * 12_000).status == 202
    refused = later(server, "boss", "echo " + "x" * 12_000)
    assert code_of(refused) == (503, "queue_full")
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    assert later(server, "boss", "echo hi").status == 202


def test_the_fleet_takes_so_many_jobs(api_redis, directory, start_api, paused, wait):
    small = start_api(api_redis.url, directory, max_queue=2)
    try:
        wait(lambda: small.get("/ready").status == 200, "the worker is known")
        replies = [
            small.request("POST", CHAT, {"messages": "echo a"}, Prefer="respond-async")
            for _ in range(3)
        ]
        assert [reply.status for reply in replies] == [202, 202, 503]
        assert replies[2].json["error"]["code"] == "queue_full"
        assert 1 <= int(replies[2].headers["retry-after"]) <= 120
        assert replies[2].headers["x-job-id"] is None
    finally:
        small.kill()


def test_the_class_of_a_request_is_never_above_its_tenants(server, fake_worker):
    def class_of(tenant, **headers):
        return fake_worker.specs[ask(server, tenant, **headers).headers["x-job-id"]].service_class

    assert class_of("free") == "default"
    assert class_of("free", x_priority="interactive") == "default"
    assert class_of("free", x_priority="batch") == "batch"
    assert class_of("low", x_priority="interactive") == "batch"
    assert code_of(ask(server, "free", x_priority="top")) == (400, "invalid_value")


def test_a_tier_is_one_of_openais(server, fake_worker):
    body = {"messages": "echo a", "service_tier": "flex"}
    assert server.request("POST", CHAT, body, **bearer("free")).status == 200
    body["service_tier"] = "best"
    reply = server.request("POST", CHAT, body, **bearer("free"))
    assert (reply.status, reply.json["error"]["param"]) == (400, "service_tier")


def test_a_deadline_that_is_met_changes_nothing(server, api_redis):
    reply = ask(server, "free", x_deadline_ms="60000", Cancel_After="1h")
    assert reply.status == 200
    with redis.Redis.from_url(api_redis.url) as client:
        job = f"job:{reply.headers['x-job-id']}"
        left = int(client.hget(job, "deadline_ms")) - int(client.hget(job, "queued_ms"))
    assert 50_000 < left <= 60_000


def test_a_deadline_that_has_passed_is_refused_before_anything(server, fake_worker):
    before = len(fake_worker.specs)
    for headers in ({"x_deadline_ms": "0"}, {"x_deadline_ms": "-1"}, {"Cancel_After": "0s"}):
        reply = ask(server, "free", **headers)
        assert code_of(reply) == (408, "deadline_exceeded")
        assert reply.headers["x-should-retry"] == "false"
    assert len(fake_worker.specs) == before
    assert ask(server, "free", Cancel_After="soon").json["error"]["param"] == "Cancel-After"


@pytest.fixture
def narrow(fake_worker):
    before = fake_worker.max_running
    fake_worker.max_running = 1
    yield
    fake_worker.max_running = before


def test_a_deadline_that_cannot_be_met_is_refused(server, narrow, wait):
    jobs = [later(server, "free", "count 50").json["id"] for _ in range(60)]

    def eta_ms():
        queue = server.get(f"/v1/jobs/{jobs[-1]}", **bearer("free")).json["queue"]
        return queue["eta_ms"] if queue else 0

    wait(lambda: eta_ms() is not None, "it is known how fast the queue drains", 30)
    assert eta_ms() > 1000, "jobs still wait"
    refused = ask(server, "free", x_deadline_ms="300")
    assert code_of(refused) == (503, "deadline_unmeetable")
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    for job_id in jobs:
        server.request("DELETE", f"/v1/jobs/{job_id}", **bearer("free"))


def test_a_tenant_sees_its_own_jobs_only(server):
    job_id = later(server, "free").json["id"]
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
        reply = server.request(method, f"/v1/jobs/{job_id}{path}", **bearer("boss"))
        assert code_of(reply) == (404, "job_not_found")
        assert server.request(method, f"/v1/jobs/{job_id}{path}", **bearer("free")).status == 200


def test_a_key_of_one_tenant_means_nothing_to_another(server):
    jobs = {
        ask(server, tenant, Idempotency_Key="mine").headers["x-job-id"]
        for tenant in ("free", "boss")
    }
    assert len(jobs) == 2


@contextlib.contextmanager
def config(client, name, value):
    before = client.config_get(name)[name]
    client.config_set(name, value)
    try:
        yield
    finally:
        client.config_set(name, before)


@pytest.fixture
def lonely(redis_server, directory, start_api, make_worker, wait):
    worker = make_worker(redis_server.url)
    worker.start()
    server = start_api(redis_server.url, directory)
    wait(lambda: server.get("/ready").status == 200, "the worker is known")
    yield server
    worker.stop()
    server.kill()


def test_new_work_is_refused_before_redis_is_full_and_streams_go_on(lonely, redis_server, wait):
    with redis.Redis.from_url(redis_server.url) as client:
        client.setrange("ballast", 64 << 20, "x")  # what the test itself takes is little beside it
        used = client.info("memory")["used_memory"]
        connection = lonely.connect()
        connection.request("POST", CHAT, json.dumps({"messages": "count 500", "stream": True}))
        response = connection.getresponse()
        with contextlib.closing(connection), config(client, "maxmemory", str(int(used * 1.1))):
            wait(lambda: lonely.chat("echo a").status == 503, "new work is refused")
            refused = lonely.chat("echo a")
            assert code_of(refused) == (503, "queue_memory_full")
            assert 1 <= int(refused.headers["retry-after"]) <= 120
            assert lonely.get("/ready").status == 200
            assert response.read().endswith(b"data: [DONE]\n\n")
        wait(lambda: lonely.chat("echo a").status == 200, "there is room again")


def test_a_redis_that_begins_to_evict_gets_no_work(lonely, redis_server, wait):
    with (
        redis.Redis.from_url(redis_server.url) as client,
        config(client, "maxmemory-policy", "allkeys-lru"),
    ):
        wait(lambda: lonely.get("/ready").status == 503, "it is noticed")
        assert code_of(lonely.chat("echo a")) == (503, "queue_unavailable")
        assert "maxmemory-policy allkeys-lru" in lonely.log.read_text()
    wait(lambda: lonely.get("/ready").status == 200, "it is trusted again")


def test_a_server_does_not_start_on_a_redis_that_evicts(redis_server, directory, start_api):
    with (
        redis.Redis.from_url(redis_server.url) as client,
        config(client, "maxmemory-policy", "volatile-lru"),
        pytest.raises(AssertionError) as caught,
    ):
        start_api(redis_server.url, directory)
    log = str(caught.value)
    assert "evicts keys when it is full (maxmemory-policy volatile-lru)" in log
    assert "Worker failed to boot" in log
    assert "Traceback" not in log


def test_a_server_starts_without_redis(directory, start_api):
    server = start_api("redis://127.0.0.1:1/0", directory)
    try:
        assert server.get("/ready").status == 503
    finally:
        server.kill()
