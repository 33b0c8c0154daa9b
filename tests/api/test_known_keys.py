"""A known Idempotency-Key answers first, and files and batches have keys, too."""

import asyncio
from hashlib import sha256

import openai
import pytest

from api.errors import ApiError
from tests.api.batch_app import CHAT, line, lines, process
from tests.api.test_files import BOUNDARY
from workers import contract

KEY = {"Idempotency-Key": "k"}
BODY = {"model": "m", "messages": "echo one two"}


async def post(app, path, body, headers=KEY):
    """The reply to a POST, raw."""
    return await app.client._client.post(f"http://test{path}", json=body, headers=headers)


async def upload(app, data=b"{}", name="in.jsonl", key="k", boundary=BOUNDARY, path="/v1/files"):
    head = 'Content-Disposition: form-data; name="file"; filename='
    form = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{boundary}\r\n{head}"{name}"\r\n\r\n'
    )
    content = form.encode() + data + f"\r\n--{boundary}--\r\n".encode()
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    headers |= {"Idempotency-Key": key} if key else {}
    return await app.client._client.post(f"http://test{path}", content=content, headers=headers)


def begin(app, file_id, key="k", **fields):
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", **fields}
    return post(app, "/v1/batches", body, {"Idempotency-Key": key})


async def full(app):
    """Redis has less room than new work needs."""
    used = (await app.redis.info("memory"))["used_memory"]
    await app.redis.config_set("maxmemory", int(used * 1.1))
    app.broker.memory._looked_s = float("-inf")


@pytest.fixture
async def no_bound(app):
    yield
    await app.redis.config_set("maxmemory", 0)


def losing_the_reply_of(script):
    async def run(**arguments):
        await script(**arguments)
        raise ApiError("queue_unavailable", "away")

    return run


def code(reply):
    return reply.json()["error"]["code"]


class TestFirst:
    """Before whatever a new request would meet."""

    async def test_a_full_redis_refuses_only_what_is_new(self, app, no_bound):
        first = await post(app, CHAT, BODY)
        await full(app)
        assert (await post(app, CHAT, BODY)).json() == first.json()
        new = await post(app, CHAT, BODY, {"Idempotency-Key": "new"})
        assert (new.status_code, code(new)) == (503, "queue_memory_full")
        other = await post(app, CHAT, {"messages": "echo three"})
        assert (other.status_code, code(other)) == (409, "idempotency_conflict")

    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
    @pytest.mark.parametrize("prefer", ["", "respond-async", "respond-async, wait=5"])
    async def test_nobody_has_to_serve_the_model_any_more(self, app, worker, stream, prefer):
        headers = KEY | {"Prefer": prefer}
        body = BODY | {"stream": stream}
        first = await post(app, CHAT, body, headers)
        job_id = first.headers["x-job-id"]

        async def is_over():
            return not await app.redis.zcard(contract.queue_key("tiny/demo"))

        await app.until(is_over, "it has ended")
        worker.stop()
        await app.redis.delete(contract.WORKERS_KEY, contract.MODELS_KEY, contract.MODELS_SEEN_KEY)
        app.broker._directory_s = float("-inf")
        again = await post(app, CHAT, body, headers)
        assert again.headers["x-job-id"] == job_id
        assert again.headers["idempotent-replayed"] == "true"
        assert again.status_code == (202 if prefer == "respond-async" else 200)
        assert "one " in again.text
        assert (await post(app, CHAT, body, {})).status_code == 503

    @pytest.mark.parametrize("background", [False, True], ids=["waits", "background"])
    async def test_the_turn_before_may_be_gone(self, app, background):
        one = await app.client.responses.create(model="m", input="echo a")
        body = {"model": "m", "input": "echo b", "background": background}
        body["previous_response_id"] = one.id
        first = await post(app, "/v1/responses", body)
        await app.client.responses.delete(one.id)
        again = await post(app, "/v1/responses", body)
        assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
        new = await post(app, "/v1/responses", body, {})
        assert (new.status_code, code(new)) == (400, "previous_response_not_found")

