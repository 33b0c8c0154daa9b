"""How batches end: cancelled, expired, without their input; and what they leave behind."""

import time

import openai
import pytest

from tests.api.batch_app import line, lines, outputs, process, running
from tests.api.fake_worker import MODEL
from workers import contract

QUEUE = contract.queue_key(MODEL)


async def test_a_batch_that_is_cancelled_keeps_what_is_done(app, worker):
    data = "\n".join([lines(5), *(line(f"h{i}", "hang on") for i in range(400))])
    batch_id = await app.begin(data)

    async def is_on_its_way():
        return (await app.client.batches.retrieve(batch_id)).request_counts.completed == 5

    await app.until(is_on_its_way, "five answers")
    cancelled = await app.client.batches.cancel(batch_id)
    assert cancelled.status == "cancelling"
    assert (await app.client.batches.cancel(batch_id)).status in ("cancelling", "cancelled")
    batch, answers, errors = await outputs(app, batch_id)
    assert batch.status == "cancelled"
    assert set(answers) == {f"r{i}" for i in range(5)}
    assert set(errors) == {f"h{i}" for i in range(400)}
    assert {(e["response"], e["error"]["code"]) for e in errors.values()} == {
        (None, "batch_cancelled")
    }
    assert (batch.request_counts.completed, batch.request_counts.failed) == (5, 400)
    assert batch.cancelled_at >= batch.cancelling_at
    assert await app.redis.zcard(QUEUE) == 0
    assert worker.cancelled


async def test_a_batch_that_waits_can_be_cancelled_before_it_is_checked(redis_url):
    async with process(redis_url) as app:
        batch_id = await app.begin(lines(3))
        await app.client.batches.cancel(batch_id)
        app.work()
        batch, answers, errors = await outputs(app, batch_id)
        assert (batch.status, answers, errors) == ("cancelled", {}, {})
        assert batch.request_counts.total == 0


async def test_an_ended_batch_cannot_be_cancelled(app):
    batch_id = await app.begin(lines(1))
    await app.ended_batch(batch_id)
    with pytest.raises(openai.ConflictError):
        await app.client.batches.cancel(batch_id)


async def test_what_is_not_done_in_time_expires(app, worker):
    data = "\n".join([lines(5), *(line(f"h{i}", "hang on") for i in range(300))])
    batch_id = await app.begin(data)

    async def is_on_its_way():
        return (await app.client.batches.retrieve(batch_id)).request_counts.completed == 5

    await app.until(is_on_its_way, "five answers")
    app.now_s = lambda: time.time() + 24 * 3600
    await app.wake(batch_id)
    batch, answers, errors = await outputs(app, batch_id)
    assert batch.status == "expired"
    assert batch.expired_at is not None
    assert set(answers) == {f"r{i}" for i in range(5)}
    assert {e["error"]["code"] for e in errors.values()} == {"batch_expired"}
    assert len(errors) == 300
    assert await app.redis.zcard(QUEUE) == 0


async def test_the_input_may_be_deleted_while_the_batch_runs(redis_url, worker):
    async with process(redis_url, batch_window=4) as app:
        app.work()
        worker.is_paused = True
        batch_id = await app.begin(lines(40))
        await running(app, batch_id)
        file_id = (await app.client.batches.retrieve(batch_id)).input_file_id
        await app.client.files.delete(file_id)
        worker.is_paused = False
        _, answers, _ = await outputs(app, batch_id)
        assert len(answers) == 40
        assert not await app.redis.exists(f"file:{file_id}:data", f"file:{file_id}:users")


async def test_a_batch_that_loses_its_input_keeps_what_is_done(redis_url, worker):
    async with process(redis_url, batch_window=4) as app:
        app.work()
        worker.is_paused = True
        batch_id = await app.begin(lines(40))

        async def is_filled():
            return await app.redis.zcard(QUEUE) == 4

        await app.until(is_filled, "the window is full")
        file_id = (await app.client.batches.retrieve(batch_id)).input_file_id
        await app.redis.delete(f"file:{file_id}:data")
        worker.is_paused = False
        batch, answers, errors = await outputs(app, batch_id)
        assert batch.status == "failed"
        assert [e.code for e in batch.errors.data] == ["input_file_lost"]
        assert 1 <= len(answers) <= 4
        assert len(answers) + len(errors) <= 4


async def test_outputs_expire_as_was_asked(app):
    expiry = {"anchor": "created_at", "seconds": 7200}
    batch_id = await app.begin(lines(1), output_expires_after=expiry)
    batch = await app.ended_batch(batch_id)
    file = await app.client.files.retrieve(batch.output_file_id)
    assert file.expires_at == file.created_at + 7200
    assert 7000 < await app.redis.ttl(f"file:{file.id}:data") <= 7200


async def test_an_ended_batch_leaves_its_files_and_its_record(app):
    batch_id = await app.begin("\n".join([lines(3), line("bad", body={"messages": 1})]))
    batch = await app.ended_batch(batch_id)
    files = {batch.input_file_id, batch.output_file_id, batch.error_file_id}
    found = {key.decode() async for key in app.redis.scan_iter("*batch*")}
    jobs = {key for key in found if key.startswith(("job:", "log:"))}
    assert found - jobs == {f"batch:{batch_id}", "batches:"}
    assert all([0 < await app.redis.ttl(key) <= 60 for key in jobs])
    kept = {key.decode() async for key in app.redis.scan_iter("file:*")}
    assert kept == {f"file:{i}" for i in files} | {f"file:{i}:data" for i in files}
    for key in found | kept:
        assert await app.redis.ttl(key) > 0, key


async def test_a_batch_whose_input_became_too_long_for_its_server_ends(redis_url, worker):
    data = "\n".join([*(line(f"r{i}") for i in range(3)), line("long", "x" * 5000)])
    async with process(redis_url, batch_window=2) as generous:
        worker.is_paused = True
        batch_id = await generous.begin(data)
        assert await generous.handle(batch_id)
    async with process(redis_url, batch_window=2, max_body_bytes=1024) as strict:
        strict.work()
        worker.is_paused = False
        batch, answers, errors = await outputs(strict, batch_id)
    assert (batch.status, [e.code for e in batch.errors.data]) == ("failed", ["line_too_long"])
    assert {*answers, *errors} == {"r0", "r1"}
    assert batch.request_counts.total == 4
