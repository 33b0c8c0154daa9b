"""Other weights while a model serves: who may ask, what comes back, what a failure says."""

import asyncio
import json

import pytest

from tests.api.batch_app import process
from tests.workers.weights import MODEL, Fleet, until
from workers import contract


@pytest.fixture
async def fleet(redis_url):
    fleet = Fleet(redis_url)
    yield fleet
    await fleet.end()


@pytest.fixture
async def app(redis_url):
    async with process(redis_url) as app:
        yield app


class Reply:
    def __init__(self, response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.json = json.loads(response.content)
        self.error = self.json.get("error")


async def post(app, path="/v1/re_isq", headers=None, **body) -> Reply:
    http = app.client._client
    return Reply(await http.post(f"http://test{path}", json=body, headers=headers or {}))


async def get(app, change_id) -> Reply:
    return Reply(await app.client._client.get(f"http://test/v1/re_isq/{change_id}"))


async def ended(app, change_id) -> Reply:
    async def is_over():
        return (await get(app, change_id)).json["state"] != "in_progress"

    await app.until(is_over, f"the end of {change_id}")
    return await get(app, change_id)


@pytest.mark.parametrize("path", ["/v1/re_isq", "/re_isq"])
@pytest.mark.parametrize(
    "body",
    [
        {"isq_type": "Q8_0"},
        {"ggml_type": "q8_0"},
        {"ggml_type": " q8_0 ", "model": MODEL},
        {"isq_type": "Q8_0", "model": "default"},
    ],
    ids=["isq_type", "ggml_type", "a model", "the default model"],
)
async def test_it_answers_when_every_worker_has_the_new_weights(app, fleet, path, body):
    await fleet.start("w1", "w2", own_isq="Q2K")
    reply = await post(app, path, **body)
    assert reply.status == 200
    assert fleet.types == ["Q8_0", "Q8_0"]
    assert (reply.json["object"], reply.json["state"]) == ("re_isq", "completed")
    assert (reply.json["model"], reply.json["isq_type"]) == (MODEL, "Q8_0")
    assert reply.json["ended_at"] >= reply.json["created_at"]
    assert reply.json["error"] is None
    for worker, name in zip(reply.json["workers"], ("w1", "w2"), strict=True):
        assert worker["took_ms"] >= 10
        shown = {key: worker[key] for key in ("id", "before", "after", "error")}
        assert shown == {"id": name, "before": "Q2K", "after": "Q8_0", "error": None}
    assert (await get(app, reply.json["id"])).json == reply.json


async def test_a_level_of_bits_is_a_type_and_none_before_is_null(app, fleet):
    await fleet.start("w1")
    reply = await post(app, isq_type=4)
    assert reply.json["isq_type"] == "4"
    assert reply.json["workers"][0]["before"] is None
    again = await post(app, isq_type="Q4_K")
    assert again.json["workers"][0]["after"] == "Q4K"


async def test_respond_async_answers_at_once_with_where_to_look(app, fleet):
    (worker,) = await fleet.start("w1")
    worker.engine.go.clear()
    reply = await post(app, isq_type="Q4K", headers={"Prefer": "respond-async"})
    assert (reply.status, reply.json["state"]) == (202, "in_progress")
    assert reply.headers["preference-applied"] == "respond-async"
    assert reply.headers["location"] == f"/v1/re_isq/{reply.json['id']}"
    assert (await get(app, reply.json["id"])).json["state"] == "in_progress"
    worker.engine.go.set()
    assert (await ended(app, reply.json["id"])).json["state"] == "completed"
    assert fleet.types == ["Q4K"]


async def test_respond_async_waits_for_as_long_as_it_is_asked_to(app, fleet):
    await fleet.start("w1")
    reply = await post(app, isq_type="Q4K", headers={"Prefer": "respond-async, wait=20"})
    assert (reply.status, reply.json["state"]) == (200, "completed")


async def test_a_failure_leaves_every_worker_as_it_was_and_says_so(app, fleet):
    first, second = await fleet.start("w1", "w2", own_isq="Q2K")
    second.engine.error = "There is no room for it."
    reply = await post(app, isq_type="Q8_0")
    assert (reply.status, reply.error["code"]) == (500, "re_isq_failed")
    assert reply.headers["x-should-retry"] == "false"
    assert reply.error["message"] == (
        "Worker w2: There is no room for it. Every worker has the weights that it had before."
    )
    assert fleet.types == ["Q2K", "Q2K"]
    assert first.engine.loads in ([], ["Q8_0", "Q2K"])
    again = await post(app, isq_type="Q4_0")
    assert again.status == 500
    second.engine.error = ""
    assert (await post(app, isq_type="Q4_0")).status == 200
    assert fleet.types == ["Q4_0", "Q4_0"]


async def test_a_failure_that_nobody_waits_for_is_there_to_read(app, fleet):
    (worker,) = await fleet.start("w1")
    worker.engine.error = "There is no room for it."
    reply = await post(app, isq_type="Q8_0", headers={"Prefer": "respond-async"})
    change = (await ended(app, reply.json["id"])).json
    assert (change["state"], change["error"]["code"]) == ("failed", "re_isq_failed")
    assert "no room" in change["error"]["message"]


async def test_while_one_is_under_way_another_type_is_refused_and_the_same_one_joins(app, fleet):
    (worker,) = await fleet.start("w1")
    worker.engine.go.clear()
    first = await post(app, isq_type="Q8_0", headers={"Prefer": "respond-async"})
    other = await post(app, isq_type="Q4K")
    assert (other.status, other.error["code"]) == (409, "conflict")
    assert "being changed to Q8_0" in other.error["message"]
    same = asyncio.create_task(post(app, isq_type="q8_0"))
    await asyncio.sleep(0.1)
    worker.engine.go.set()
    assert (await same).json["id"] == first.json["id"]
    assert worker.engine.loads == ["Q8_0"]


async def test_a_client_that_leaves_does_not_stop_it(app, fleet):
    (worker,) = await fleet.start("w1")
    worker.engine.go.clear()
    request = asyncio.create_task(post(app, isq_type="Q8_0"))
    await until(lambda: fleet.busy)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    worker.engine.go.set()
    await until(lambda: fleet.types == ["Q8_0"])


@pytest.mark.parametrize(
    ("body", "status", "code", "param", "sentence"),
    [
        ({}, 400, "missing_required_parameter", "isq_type", "'isq_type' (or 'ggml_type')"),
        ({"isq_type": "Q9"}, 400, "invalid_value", "isq_type", "choose one of `2`, `3`,"),
        ({"isq_type": 7}, 400, "invalid_value", "isq_type", "ISQ type 7 unknown"),
        ({"isq_type": "Q4K", "ggml_type": "Q4K"}, 400, "invalid_value", "ggml_type", "two names"),
        ({"isq_type": None}, 400, "missing_required_parameter", "isq_type", "Missing"),
        ({"isq_type": [1]}, 400, "invalid_type", "isq_type", "expected"),
        ({"isq_type": "Q4K", "imatrix": "x"}, 400, "invalid_value", None, "imatrix"),
        ({"isq_type": "Q4K", "model": "n"}, 404, "model_not_found", "model", "'n' is not served"),
    ],
    ids=["empty", "type", "number", "both", "null", "list", "unknown field", "model"],
)
async def test_what_makes_no_sense_is_refused(app, fleet, body, status, code, param, sentence):
    await fleet.start("w1")
    reply = await post(app, **body)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (status, code, param)
    assert sentence in reply.error["message"]


async def test_without_workers_it_is_503(app, fleet):
    reply = await post(app, isq_type="Q4K")
    assert (reply.status, reply.error["code"]) == (503, "no_workers")
    (worker,) = await fleet.start("w1")
    await worker.die()
    await worker.client.delete(contract.worker_key("w1"))
    reply = await post(app, isq_type="Q4K")
    assert (reply.status, reply.error["code"]) == (503, "no_workers")
    assert "No worker serves 'm' now" in reply.error["message"]


async def test_several_models_and_none_named_is_refused(app, fleet):
    await fleet.start("w1")
    await app.redis.hset("models", "n", contract.encode(_other_card()))
    await app.redis.zadd("models:seen", {"n": 1 << 40})
    reply = await post(app, isq_type="Q4K")
    assert (reply.status, reply.error["param"]) == (400, "model")
    assert "one of them: m, n" in reply.error["message"]
    assert (await post(app, isq_type="Q4K", model=MODEL)).status == 200
    reply = await post(app, isq_type="Q4K", model="n")
    assert (reply.status, reply.error["code"]) == (400, "unsupported_parameter")


def _other_card():
    return contract.ModelCard(name="n", queue="q:n", context_length=1, vocab_size=1, created_s=0)


async def test_a_fleet_whose_last_worker_is_killed_is_503_and_the_next_one_begins_with_it(
    app, fleet, monkeypatch
):
    monkeypatch.setattr("api.re_isq.GONE_S", 0.3)
    (worker,) = await fleet.start("w1")
    worker.engine.go.clear()
    request = asyncio.create_task(post(app, isq_type="Q8_0"))
    await until(lambda: fleet.busy)
    await worker.die()
    await worker.client.delete(contract.worker_key("w1"))
    reply = await request
    assert (reply.status, reply.error["code"]) == (503, "no_workers")
    assert "those that start now begin with Q8_0" in reply.error["message"]


async def test_who_waits_goes_on_waiting_while_redis_restarts(redis_server):
    fleet = Fleet(redis_server.url)
    async with process(redis_server.url, redis_timeout_s=0.3) as app:
        (worker,) = await fleet.start("w1")
        worker.engine.go.clear()
        request = asyncio.create_task(post(app, isq_type="Q8_0"))
        await until(lambda: fleet.busy)
        redis_server.kill()
        await asyncio.sleep(1.0)
        redis_server.start()
        worker.engine.go.set()
        reply = await request
        await fleet.end()
    assert (reply.status, reply.json.get("state")) == (200, "completed")


async def test_who_waits_is_told_when_redis_stays_away(redis_server, monkeypatch):
    monkeypatch.setattr("api.re_isq.GONE_S", 0.3)
    fleet = Fleet(redis_server.url)
    async with process(redis_server.url, redis_timeout_s=0.3) as app:
        (worker,) = await fleet.start("w1")
        worker.engine.go.clear()
        request = asyncio.create_task(post(app, isq_type="Q8_0"))
        await until(lambda: fleet.busy)
        redis_server.kill()
        reply = await request
        await fleet.end()
    assert (reply.status, reply.error["code"]) == (503, "queue_unavailable")


async def test_an_unknown_change_is_not_found(app):
    reply = await get(app, "reisq-none")
    assert (reply.status, reply.error["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/v1/re_isq", "/re_isq", "/v1/re_isq/x", "/re_isq/x"])
async def test_only_an_admin_may(redis_url, fleet, path):
    await fleet.start("w1")
    async with process(redis_url, api_keys="plain-key-000000,admin:boss-key-000000") as app:
        send = app.client._client.post if path.endswith("isq") else app.client._client.get
        options = {"json": {"isq_type": "Q4K"}} if path.endswith("isq") else {}
        for key, status in (("plain-key-000000", 403), ("boss-key-000000", 200), ("no", 401)):
            headers = {"authorization": f"Bearer {key}"}
            reply = await send(f"http://test{path}", headers=headers, **options)
            expected = 404 if status == 200 and path.endswith("x") else status
            assert reply.status_code == expected
