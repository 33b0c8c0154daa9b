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


class TestBatches:
    async def test_the_same_batch_however_often_and_at_once(self, app):
        file_id = await app.upload(lines(2))
        replies = await asyncio.gather(*(begin(app, file_id) for _ in range(8)))
        assert {reply.status_code for reply in replies} == {200}
        (batch_id,) = {reply.json()["id"] for reply in replies}
        assert sum("idempotent-replayed" not in reply.headers for reply in replies) == 1
        assert [batch.id for batch in (await app.client.batches.list()).data] == [batch_id]

    async def test_it_is_shown_as_it_stands_even_without_its_input(self, app):
        file_id = await app.upload(lines(2))
        batch_id = (await begin(app, file_id)).json()["id"]
        await app.ended_batch(batch_id)
        await app.client.files.delete(file_id)
        again = (await begin(app, file_id)).json()
        assert (again["id"], again["status"]) == (batch_id, "completed")

    async def test_another_body_is_a_conflict(self, app):
        file_id = await app.upload(lines(2))
        await begin(app, file_id)
        reply = await begin(app, file_id, metadata={"a": "b"})
        assert (reply.status_code, code(reply)) == (409, "idempotency_conflict")
        assert reply.headers["x-should-retry"] == "false"
        chat = await post(app, CHAT, {"messages": "echo a"})
        assert chat.status_code == 409, "a key is one for all routes"

    async def test_a_refused_one_leaves_its_key_free(self, app):
        assert (await begin(app, "file-none")).status_code == 404
        assert (await begin(app, await app.upload(lines(1)))).status_code == 200

    async def test_a_lost_reply_is_found_again(self, app):
        file_id = await app.upload(lines(1))

        scripts = app.parts.store._scripts
        create, scripts["create"] = scripts["create"], losing_the_reply_of(scripts["create"])
        assert (await begin(app, file_id)).status_code == 503
        scripts["create"] = create
        (batch,) = (await app.client.batches.list()).data
        assert (await begin(app, file_id)).json()["id"] == batch.id

    async def test_a_key_ends_with_its_record(self, redis_url, worker):
        async with process(redis_url, idempotency_ttl_s=77) as app:
            file_id = await app.upload(line("a"))
            first = (await begin(app, file_id)).json()["id"]
            assert 70 < await app.redis.ttl("idem::k") <= 77
            await app.redis.delete("idem::k")
            assert (await begin(app, file_id)).json()["id"] != first


class TestFiles:
    async def pieces(self, app):
        return sorted([key.decode() async for key in app.redis.scan_iter("file:*:data")])

    async def test_the_same_form_is_the_same_file_however_it_is_separated(self, app):
        first = await upload(app, b"x" * 300_000)
        again = await upload(app, b"x" * 300_000, boundary="other")
        assert again.json() == first.json()
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        file_id = first.json()["id"]
        assert await self.pieces(app) == [f"file:{file_id}:data"]
        assert (await app.client.files.content(file_id)).content == b"x" * 300_000

    async def test_those_at_once_are_one(self, app):
        replies = await asyncio.gather(*(upload(app, b"x" * 300_000) for _ in range(8)))
        (file_id,) = {reply.json()["id"] for reply in replies}
        assert [file.id for file in (await app.client.files.list()).data] == [file_id]
        assert await self.pieces(app) == [f"file:{file_id}:data"]

    @pytest.mark.parametrize("other", [{"data": b"{ }"}, {"name": "b"}], ids=["content", "name"])
    async def test_another_file_is_a_conflict_and_leaves_nothing(self, app, other):
        file_id = (await upload(app)).json()["id"]
        reply = await upload(app, **other)
        assert (reply.status_code, code(reply)) == (409, "idempotency_conflict")
        assert await self.pieces(app) == [f"file:{file_id}:data"]

    async def test_a_known_one_needs_no_room(self, redis_url):
        async with process(redis_url, max_stored_bytes=5, max_file_bytes=10) as app:
            try:
                first = await upload(app, b"12345")
                await full(app)
                assert (await upload(app, b"12345")).json() == first.json()
            finally:
                await app.redis.config_set("maxmemory", 0)
            assert code(await upload(app, b"12345", key="")) == "storage_full"

    async def test_a_commit_whose_reply_was_lost_is_found_with_all_it_holds(self, app):
        files = app.parts.files
        commit, files.commit_script = files.commit_script, losing_the_reply_of(files.commit_script)
        assert (await upload(app, b"12345")).status_code == 503
        files.commit_script = commit
        again = await upload(app, b"12345")
        assert again.headers["idempotent-replayed"] == "true"
        content = await app.client.files.content(again.json()["id"])
        assert content.content == b"12345"

    async def test_an_upload_that_broke_off_leaves_its_key_free(self, app):
        files = app.parts.files
        append, files.append_script = files.append_script, losing_the_reply_of(files.append_script)
        assert (await upload(app, b"12345")).status_code == 503
        files.append_script = append
        again = await upload(app, b"54321")
        assert "idempotent-replayed" not in again.headers
        assert await self.pieces(app) == [f"file:{again.json()['id']}:data"]

    async def test_a_deleted_file_answers_for_nothing(self, app):
        first = (await upload(app)).json()["id"]
        await app.client.files.delete(first)
        assert (await upload(app)).json()["id"] != first

    async def test_the_openai_client_sends_keys_like_others(self, app):
        create = app.client.files.create
        ids = {
            (await create(file=("a", b"{}"), purpose="batch", extra_headers=KEY)).id
            for _ in range(2)
        }
        assert len(ids) == 1
        with pytest.raises(openai.ConflictError):
            await create(file=("a", b"[]"), purpose="batch", extra_headers=KEY)


async def test_a_tenants_keys_are_its_own(redis_url, worker, tmp_path):
    keys = tmp_path / "keys.toml"
    entry = '[[keys]]\nhash = "sha256:{}"\ntenant = "{}"\n'
    keys.write_text("".join(entry.format(sha256(n.encode()).hexdigest(), n) for n in "ab"))
    async with process(redis_url, api_keys_file=str(keys)) as app:
        ids = set()
        for name in "ab":
            client = app.client.with_options(api_key=name)
            file = await client.files.create(file=("a", b"{}"), purpose="batch", extra_headers=KEY)
            batch = await client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                extra_headers={"Idempotency-Key": "batch"},
            )
            ids |= {file.id, batch.id}
        assert len(ids) == 4
