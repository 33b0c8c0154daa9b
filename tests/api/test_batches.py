"""Batches from upload to output, with the real openai client, chores, Redis and the fake worker."""

import asyncio
import json
from hashlib import sha256

import openai
import pytest

from tests.api.batch_app import line, lines, outputs, process, running, said
from tests.api.fake_worker import MODEL, FakeWorker
from workers import contract

QUEUE = contract.queue_key(MODEL)


async def test_every_line_gets_its_answer(app, worker):
    batch_id = await app.begin(lines(30), metadata={"a": "b"})
    batch, answers, errors = await outputs(app, batch_id)
    assert batch.status == "completed"
    assert {k: said(v) for k, v in answers.items()} == {f"r{i}": f"{i} " for i in range(30)}
    assert errors == {}
    assert batch.error_file_id is None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (30, 30, 0)
    assert batch.metadata == {"a": "b"}
    assert (batch.usage.input_tokens, batch.usage.output_tokens) == (30 * 7, 30)
    times = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert list(times) == sorted(times)
    assert batch.expires_at == batch.created_at + 24 * 3600
    one = answers["r3"]
    assert (one["response"]["status_code"], one["error"]) == (200, None)
    assert one["id"].startswith("batch_req_")
    assert one["response"]["request_id"].startswith("req_")
    file = await app.client.files.retrieve(batch.output_file_id)
    assert (file.purpose, file.bytes) == (
        "batch_output",
        len((await app.client.files.content(file.id)).content),
    )


async def test_lines_are_jobs_of_the_lowest_class_that_nobody_has_to_wait_for(app, worker):
    batch_id = await app.begin(lines(2))
    await app.ended_batch(batch_id)
    job = worker.specs[f"{batch_id}-2"]
    assert (job.service_class, job.is_detached, job.batch, job.line) == ("batch", True, batch_id, 2)
    assert job.endpoint == "/v1/chat/completions"
    assert job.cost > 0


@pytest.mark.parametrize("path", ["", "/events"], ids=["state", "stream"])
async def test_a_line_is_known_to_have_been_seen_before_it_is_shown(app, worker, path):
    batch_id = await app.begin(lines(1, "hang"))
    job_id = f"{batch_id}-1"

    async def has_begun():
        return await app.redis.llen(contract.log_key(job_id)) == 2

    await app.until(has_begun, "it has said something")
    assert await app.redis.hget(contract.job_key(job_id), "is_seen") is None
    send = app.client._client.stream("GET", f"http://test/v1/jobs/{job_id}{path}")
    asking = asyncio.create_task(send.__aenter__())

    async def is_seen():
        return await app.redis.hget(contract.job_key(job_id), "is_seen") == b"1"

    await app.until(is_seen, "it is noted")
    await app.client.batches.cancel(batch_id)
    assert (await asking).status_code == 200


async def test_the_end_is_told_once(app):
    batch_id = await app.begin(lines(3))
    await app.ended_batch(batch_id)

    async def is_told():
        return bool(app.ended)

    await app.until(is_told, "the end is told")
    assert await app.handle(batch_id) is None  # a chore that comes late
    assert [(state.batch.id, state.status) for state in app.ended] == [(batch_id, "completed")]


async def test_text_completions_can_be_batched(app):
    fields = {"method": "POST", "url": "/v1/completions", "body": {"prompt": "echo a b"}}
    data = json.dumps({"custom_id": "x", **fields})
    _, answers, _ = await outputs(app, await app.begin(data, endpoint="/v1/completions"))
    assert answers["x"]["response"]["body"]["choices"][0]["text"] == "a b "


async def test_responses_can_be_batched(app):
    fields = {"method": "POST", "url": "/v1/responses"}
    bodies = {
        "good": {"input": "echo a b", "instructions": "be short"},
        "background": {"input": "echo", "background": True},
        "unknown": {"input": "echo", "previous_response_id": "resp_" + "0" * 32},
    }
    data = [json.dumps({"custom_id": k, "body": v, **fields}) for k, v in bodies.items()]
    batch_id = await app.begin("\n".join(data), endpoint="/v1/responses")
    _, answers, errors = await outputs(app, batch_id)
    body = answers["good"]["response"]["body"]
    assert (body["object"], body["status"], body["instructions"]) == (
        "response",
        "completed",
        "be short",
    )
    assert body["output"][0]["content"][0]["text"] == "a b "
    found = {k: v["response"]["body"]["error"]["param"] for k, v in errors.items()}
    assert found == {"background": "background", "unknown": "previous_response_id"}
    with pytest.raises(openai.NotFoundError):
        await app.client.responses.retrieve(body["id"])


async def test_a_bad_body_is_a_line_in_the_error_file(app):
    bad = {
        "stream": {"stream": True},
        "type": {"messages": 5},
        "range": {"temperature": 9},
        "tools": {"tools": [{"type": "function"}]},
    }
    data = "\n".join(
        [lines(3), *(line(k, body=v) for k, v in bad.items()), line("engine", "fail x")]
    )
    batch, answers, errors = await outputs(app, await app.begin(data))
    assert batch.status == "completed"
    assert set(answers) == {"r0", "r1", "r2"}
    assert set(errors) == {*bad, "engine"}
    assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 5)
    assert errors["stream"]["response"]["status_code"] == 400
    error = errors["stream"]["response"]["body"]["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", "stream")
    assert errors["engine"]["response"]["status_code"] == 500
    assert errors["engine"]["response"]["body"]["error"]["code"] == "x"
    assert errors["engine"]["error"] is None


@pytest.mark.parametrize("total", [1000, pytest.param(5000, marks=pytest.mark.nightly)])
async def test_one_bad_line_in_thousands_loses_no_other(app, worker, total):
    worker.step_s = 0.001
    bad = line("bad", body={"messages": []})
    data = [line(f"r{i}", "echo x") for i in range(total - 1)]
    most = 0
    worker.is_paused = True
    batch_id = await app.begin("\n".join([*data[: total // 2], bad, *data[total // 2 :]]))

    async def is_filled():
        return await app.redis.zcard(QUEUE) == app.config.batch_window

    await app.until(is_filled, "the window is full")
    worker.is_paused = False

    async def is_over():
        nonlocal most
        most = max(most, await app.redis.zcard(QUEUE))
        return (await app.client.batches.retrieve(batch_id)).status == "completed"

    await app.until(is_over, f"{total} lines", 110)
    batch, answers, errors = await outputs(app, batch_id)
    assert set(answers) == {f"r{i}" for i in range(total - 1)}
    assert set(errors) == {"bad"}
    assert most <= app.config.batch_window
    assert (batch.request_counts.total, batch.request_counts.failed) == (total, 1)


async def test_line_ends_and_blank_lines_do_not_matter(app):
    data = "\ufeff" + "\r\n".join([line("a"), "", line("b"), "  ", line("c")])
    batch, answers, _ = await outputs(app, await app.begin(data))
    assert set(answers) == {"a", "b", "c"}
    assert batch.request_counts.total == 3


FORM_ERRORS = {
    "no JSON": (f"{line('a')}\n{{\n", [("invalid_json_line", 2)]),
    "a double id": (f"{line('a')}\n\n{line('b')}\n{line('a')}", [("duplicate_custom_id", 4)]),
    "another url": (f"{line('a')}\n{line('b', url='/v1/x')}", [("url_mismatch", 2)]),
    "nothing": ("", [("empty_file", None)]),
    "blanks": ("\n \r\n", [("empty_file", None)]),
    "two bad ones": (
        line("a", method="GET") + '\n{"method": "POST"}\n',
        [("invalid_method", 1), ("missing_required_parameter", 2)],
    ),
    "a long line": (line("a") + "\n" + line("b", "x" * 40_000), [("line_too_long", 2)]),
    "bad ones only": ("{\n" * 500, [("invalid_json_line", i + 1) for i in range(100)]),
}


async def test_a_file_of_empty_lines_is_not_read_for_ever(app, monkeypatch):
    monkeypatch.setattr("api.batch.input.MAX_LINES", 1000)
    batch = await app.ended_batch(await app.begin("\n" * 5000 + line("a")))
    assert [e.code for e in batch.errors.data] == ["too_many_tasks"]


@pytest.mark.parametrize("part", ["output", "open", "ids"])
async def test_what_a_batch_is_kept_in_is_no_batch(app, part):
    batch_id = await app.begin(lines(1))
    await app.ended_batch(batch_id)
    await app.redis.rpush(f"batch:{batch_id}:{part}", "x")
    with pytest.raises(openai.NotFoundError):
        await app.client.batches.retrieve(f"{batch_id}:{part}")


@pytest.mark.parametrize(("data", "expected"), FORM_ERRORS.values(), ids=FORM_ERRORS.keys())
async def test_a_file_in_no_form_fails_the_batch(redis_url, worker, data, expected):
    async with process(redis_url, max_body_bytes=20_000) as app:
        app.work()
        batch = await app.ended_batch(await app.begin(data))
        assert batch.status == "failed"
        assert batch.failed_at is not None
        assert [(e.code, e.line) for e in batch.errors.data] == expected
        assert all(e.message for e in batch.errors.data)
        assert (batch.output_file_id, batch.error_file_id, batch.in_progress_at) == (None,) * 3
        assert not worker.specs


async def test_too_many_lines_fail_the_batch(app, monkeypatch):
    monkeypatch.setattr("api.batch.input.MAX_LINES", 10)
    batch = await app.ended_batch(await app.begin(lines(11)))
    assert [e.code for e in batch.errors.data] == ["too_many_tasks"]
    assert (await app.ended_batch(await app.begin(lines(10)))).status == "completed"


def keys_of(directory, *names):
    """A file of keys, `key-of-{name}-012345` for each name; returns its path."""
    entry = '[[keys]]\nhash = "sha256:{}"\ntenant = "{}"\n'
    hashes = [sha256(f"key-of-{name}-012345".encode()).hexdigest() for name in names]
    path = directory / "keys.toml"
    path.write_text("".join(map(entry.format, hashes, names)))
    return str(path)


async def test_a_batch_waits_for_a_worker(redis_url):
    async with process(redis_url) as app:
        app.work()
        batch_id = await app.begin(lines(3))
        await running(app, batch_id)
        worker = FakeWorker(redis_url)
        worker.start()
        try:
            assert (await app.ended_batch(batch_id)).request_counts.completed == 3
        finally:
            worker.stop()


async def test_a_batch_leaves_half_of_the_queue_to_others(redis_url, worker):
    async with process(redis_url, max_queue=8) as app:
        app.work()
        worker.is_paused = True
        batch_id = await app.begin(lines(40))

        async def is_filled():
            return await app.redis.zcard(QUEUE) == 4

        await app.until(is_filled, "half of the queue")
        messages = [{"role": "user", "content": "echo me"}]
        asks = [app.client.chat.completions.create(model="m", messages=messages) for _ in range(4)]
        waiting = asyncio.gather(*asks)

        async def is_full():
            return await app.redis.zcard(QUEUE) == 8

        await app.until(is_full, "the other half is for others")
        worker.is_paused = False
        assert len(await waiting) == 4
        assert (await app.ended_batch(batch_id)).request_counts.completed == 40


async def test_no_tenant_keeps_the_batches_of_another_out_of_the_queue(redis_url, worker, tmp_path):
    path = keys_of(tmp_path, "alice", "bob")
    async with process(redis_url, max_queue=32, api_keys_file=path) as app:
        app.work()
        worker.is_paused = True
        fields = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}

        async def begin(name, count):
            client = app.client.with_options(api_key=f"key-of-{name}-012345")
            file = await client.files.create(file=("f", lines(count).encode()), purpose="batch")
            await client.batches.create(input_file_id=file.id, **fields)

        async def queued():
            return await app.redis.hgetall(contract.tenants_key(QUEUE))

        async def is_filled():
            return (await queued()).get(b"alice") == b"14"  # of the 16 in half of the queue

        async def is_let_in():
            return (await queued()).get(b"bob") == b"1"

        await begin("alice", 100)
        await app.until(is_filled, "nearly all that is there for batches")
        await begin("bob", 1)
        await app.until(is_let_in, "bob's line is in the queue")
        worker.is_paused = False


async def test_batches_are_listed_newest_first_in_pages(app):
    ids = [await app.begin(lines(1)) for _ in range(5)]
    assert [b.id async for b in app.client.batches.list(limit=2)] == ids[::-1]
    page = await app.client.batches.list(limit=2)
    assert (page.has_more, [b.id for b in page.data]) == (True, ids[:2:-1])
    with pytest.raises(openai.NotFoundError):
        await app.client.batches.list(after="batch_x")
    with pytest.raises(openai.BadRequestError):
        await app.client.batches.list(limit=101)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"input_file_id": "file-none"}, openai.NotFoundError),
        ({"endpoint": "/v1/moderations"}, openai.BadRequestError),
        ({"completion_window": "1h"}, openai.BadRequestError),
        ({"metadata": {"k" * 65: "v"}}, openai.BadRequestError),
        ({"metadata": {str(i): "v" for i in range(17)}}, openai.BadRequestError),
    ],
    ids=["no file", "endpoint", "window", "key", "pairs"],
)
async def test_a_bad_request_begins_no_batch(app, fields, kind):
    values = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **fields}
    values.setdefault("input_file_id", await app.upload(lines(1)))
    with pytest.raises(kind):
        await app.client.batches.create(**values)
    assert (await app.client.batches.list()).data == []


async def test_the_input_must_be_meant_for_a_batch(app):
    file = await app.client.files.create(file=lines(1).encode(), purpose="user_data")
    fields = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    with pytest.raises(openai.BadRequestError):
        await app.client.batches.create(input_file_id=file.id, **fields)


async def test_a_tenant_sees_only_its_own_batches(redis_url, worker, tmp_path):
    names = ("alice", "bob")
    async with process(redis_url, api_keys_file=keys_of(tmp_path, *names)) as app:
        app.work()
        alice, bob = (app.client.with_options(api_key=f"key-of-{n}-012345") for n in names)
        file = await alice.files.create(file=("f", lines(2).encode()), purpose="batch")
        fields = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        with pytest.raises(openai.NotFoundError):
            await bob.batches.create(input_file_id=file.id, **fields)
        batch = await alice.batches.create(input_file_id=file.id, **fields)
        for call in (bob.batches.retrieve, bob.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await call(batch.id)
        assert (await bob.batches.list()).data == []

        async def is_over():
            return (await alice.batches.retrieve(batch.id)).status == "completed"

        await app.until(is_over, "alice's batch ends")
        output_id = (await alice.batches.retrieve(batch.id)).output_file_id
        with pytest.raises(openai.NotFoundError):
            await bob.files.content(output_id)
        assert (await alice.files.content(output_id)).text.count("\n") == 2
        assert worker.specs[f"{batch.id}-1"].tenant == "alice"
