"""The worker inside the test's loop: what each pitfall of arq would break, against a real Redis."""

import asyncio
import logging
import statistics
import time

import arq
import arq.worker
import pytest

from tests.workers.wire import (
    QUEUE,
    check_log,
    has_tokens,
    ids_of,
    make_job,
    num_tokens,
    scripted_ids,
    text_of,
    text_of_ids,
)
from workers import contract
from workers.contract import Done, Failed, Fence, Started
from workers.generate import generate
from workers.redis_link import Scripts
from workers.worker import max_jobs


async def test_a_job_becomes_a_log_of_started_tokens_and_done(
    local_worker, wire, text, model_files
):
    local_worker().start()
    job = make_job()
    assert (await wire.enqueue(job))[0] == 1
    events = await wire.finished()
    check_log(events)
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Done)
    assert ids_of(events) == scripted_ids(model_files, job)
    assert text_of(events) == text_of_ids(text, scripted_ids(model_files, job))


async def test_an_ended_job_leaves_only_what_expires(local_worker, wire):
    worker = local_worker().start()
    await wire.enqueue(make_job())
    await wire.finished()
    await wire.until_true(lambda: not worker.worker.tasks)
    for key in await wire.client.keys("*"):
        if key.decode() not in {"workers", "models", "models:seen", f"{QUEUE}:sums"}:
            assert await wire.client.ttl(key) > 0, key
    assert await wire.client.exists("arq:result:j", "arq:retry:j", contract.lease_key("j")) == 0


@pytest.mark.parametrize(
    "name",
    ["_poll_iteration", "run_job", "finish_job", "finish_failed_job"],
)
def test_what_we_replace_or_call_exists_in_arq(name):
    assert callable(getattr(arq.worker.Worker, name))
    assert arq.VERSION == "0.28.0"


async def test_the_state_of_arq_that_we_use_exists(local_worker):
    worker = arq.worker.Worker([generate], handle_signals=False)
    for name in ("tasks", "job_tasks", "max_jobs", "allow_pick_jobs", "queue_name", "ctx"):
        assert hasattr(worker, name), name


@pytest.mark.parametrize(("max_seqs", "jobs"), [(1, 2), (4, 5), (32, 40), (256, 320)])
def test_a_worker_takes_a_quarter_more_jobs_than_its_engine_runs(max_seqs, jobs):
    assert max_jobs(max_seqs) == jobs


async def test_jobs_wait_in_the_queue_when_the_engine_is_full(local_worker, wire):
    worker = local_worker(max_seqs=4, step_s=0.005).start()
    for number in range(12):
        await wire.enqueue(make_job(f"j{number}", max_tokens=30))
    await wire.until(has_tokens(1), "j4")
    assert len(worker.worker.tasks) <= 5
    for number in range(12):
        await wire.finished(f"j{number}")


async def test_choices_count_against_the_engine_s_room(local_worker, wire):
    worker = local_worker(max_seqs=4, step_s=0.005).start()
    await wire.enqueue(make_job("many", n=8, max_tokens=30))
    await wire.until(has_tokens(8), "many")
    assert worker.worker.num_free < 0


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"prompts": [[5] * 5000]}, "context_length_exceeded", "prompt"),
        ({"prompts": [[10**6]]}, "invalid_value", "prompt"),
        ({"prompts": [[]]}, "invalid_value", "prompt"),
    ],
    ids=["too long", "unknown id", "empty"],
)
async def test_a_bad_prompt_fails_before_it_starts(local_worker, wire, changes, code, param):
    local_worker().start()
    await wire.enqueue(make_job(**changes))
    (event,) = await wire.finished()
    assert (event.offset, event.code, event.param) == (0, code, param)


async def test_a_big_prompt_is_tokenized_in_a_thread_and_gives_the_same(local_worker, wire):
    words = "word " * 10_000
    worker = local_worker(max_model_len=100_000).start()
    await wire.enqueue(make_job(prompts=[words], max_tokens=2))
    events = await wire.finished()
    expected = len(worker.service.text.tokenizer.encode(words))
    assert events[0] == Started(0, expected)


class TestCancel:
    async def test_a_running_job_stops_within_a_step_and_says_so(self, local_worker, wire):
        worker = local_worker(step_s=0.005).start()
        job = make_job(max_tokens=3000)
        await wire.enqueue(job)
        await wire.until(has_tokens(2))
        assert await wire.cancel(job) == 0
        events = await wire.finished()
        check_log(events)
        assert isinstance(events[-1], Failed)
        assert events[-1].code == "cancelled"
        await wire.until_true(lambda: worker.engine.stats.running == 0)

    async def test_a_cancel_that_nobody_heard_is_found_at_the_start(self, local_worker, wire):
        job = make_job()
        await wire.enqueue(job)
        await wire.client.set(contract.cancel_key("j"), 1)
        local_worker().start()
        (event,) = await wire.finished()
        assert isinstance(event, Failed)
        assert event.code == "cancelled"

    async def test_a_cancel_that_nobody_heard_is_found_when_the_lease_is_renewed(
        self, local_worker, wire
    ):
        local_worker(step_s=0.005).start()
        await wire.enqueue(make_job(max_tokens=3000))
        await wire.until(has_tokens(2))
        await wire.client.set(contract.cancel_key("j"), 1)
        events = await wire.finished()
        assert isinstance(events[-1], Failed)
        assert events[-1].code == "cancelled"


class TestOwnership:
    async def test_a_worker_that_lost_its_lease_changes_nothing_and_falls_silent(
        self, local_worker, wire
    ):
        worker = local_worker(step_s=0.005).start()
        await wire.enqueue(make_job(max_tokens=3000))
        await wire.until(has_tokens(2))
        await wire.client.hincrby(contract.job_key("j"), "attempts", 1)
        await wire.client.set(contract.lease_key("j"), "w2:2")
        await wire.until_true(lambda: not worker.worker.tasks)
        assert await wire.client.get(contract.lease_key("j")) == b"w2:2"
        assert await wire.client.zscore(QUEUE, "j") is not None
        assert not contract.is_terminal((await wire.events())[-1])
        assert worker.engine.stats.running == 0

    async def test_a_fence_stops_the_old_attempt_at_its_next_token(self, local_worker, wire):
        worker = local_worker(step_s=0.005, lease_s=30).start()
        await wire.enqueue(make_job(max_tokens=3000))
        await wire.until(has_tokens(2))
        await wire.client.set(contract.lease_key("j"), "w2:2", px=30_000)
        await wire.client.rpush("log:j", contract.encode(Fence(2, "w2")))
        await wire.until_true(lambda: not worker.worker.tasks)
        assert isinstance((await wire.events())[-1], Fence)

    async def test_a_fenced_job_whose_lease_is_still_ours_is_taken_again(self, local_worker, wire):
        local_worker(step_s=0.002).start()
        job = make_job(max_tokens=40)
        await wire.enqueue(job)
        await wire.until(has_tokens(2))
        await wire.client.rpush("log:j", contract.encode(Fence(9, "nobody")))
        events = await wire.finished()
        check_log(events)
        assert num_tokens(events) == 40

    async def test_two_workers_never_run_one_job(self, local_worker, wire):
        workers = [local_worker(name, step_s=0.002).start() for name in ("w1", "w2", "w3")]
        for number in range(40):
            await wire.enqueue(make_job(f"j{number}"))
        for number in range(40):
            events = await wire.finished(f"j{number}")
            check_log(events)
            assert not [event for event in events if isinstance(event, Fence)]
        assert sum(worker.worker.jobs_complete for worker in workers) == 40

    async def test_a_claim_of_our_own_expired_job_replaces_the_attempt(
        self, local_worker, wire, model_files
    ):
        worker = local_worker(step_s=0.005, lease_s=30).start()
        job = make_job(max_tokens=60)
        await wire.enqueue(job)
        await wire.until(has_tokens(2))
        await wire.expire_lease()
        worker.worker.wake()
        events = await wire.finished()
        check_log(events)
        assert ids_of(events) == scripted_ids(model_files, job)
        assert [event.attempt for event in events if isinstance(event, Fence)] == [2]


class TestHandBack:
    async def test_drain_gives_the_rest_to_another_worker_at_its_offset(
        self, local_worker, wire, model_files
    ):
        first = local_worker("w1", step_s=0.005, drain_s=0.05).start()
        jobs = [make_job(f"j{n}", max_tokens=60, seed=n) for n in range(10)]
        for job in jobs:
            await wire.enqueue(job)
        await wire.until(has_tokens(3), "j9")
        first.worker.stop()
        await asyncio.wait([first.task])
        assert first.task.exception() is None
        assert not first.worker.tasks
        assert await wire.client.keys("arq:in-progress:*") == []
        local_worker("w2").start()
        for job in jobs:
            events = await wire.finished(job.id)
            check_log(events)
            assert ids_of(events) == scripted_ids(model_files, job)
        await wire.until_gone("arq:retry:*")

    async def test_drain_lets_short_jobs_finish_and_takes_no_new_ones(self, local_worker, wire):
        worker = local_worker(step_s=0.005, drain_s=20).start()
        await wire.enqueue(make_job(max_tokens=20))
        await wire.until(has_tokens(1))
        worker.worker.stop()
        await wire.enqueue(make_job("late"))
        await asyncio.wait([worker.task])
        events = await wire.events()
        assert isinstance(events[-1], Done)
        assert await wire.events("late") == []

    async def test_what_is_being_claimed_at_the_signal_is_handed_back_too(
        self, local_worker, wire, monkeypatch
    ):
        is_claimed, may_go_on = asyncio.Event(), asyncio.Event()
        run = Scripts.run

        async def reply_late(scripts, name, keys=(), args=()):
            reply = await run(scripts, name, keys, args)
            if name == "claim" and reply:
                is_claimed.set()
                await may_go_on.wait()
            return reply

        monkeypatch.setattr(Scripts, "run", reply_late)
        worker = local_worker(step_s=0.005, lease_s=60).start()
        await wire.enqueue(make_job(max_tokens=3000))
        await is_claimed.wait()
        worker.worker.stop()
        await asyncio.sleep(0.05)  # long enough to leave with nothing
        may_go_on.set()
        await asyncio.wait([worker.task])
        assert await wire.client.get(contract.lease_key("j")) is None

    async def test_a_second_signal_does_not_wait(self, local_worker, wire):
        worker = local_worker(step_s=0.01, drain_s=20).start()
        await wire.enqueue(make_job(max_tokens=3000))
        await wire.until(has_tokens(1))
        worker.worker.stop()
        worker.worker.stop()
        done, _ = await asyncio.wait([worker.task], timeout=3)
        assert done
        assert await wire.client.get(contract.lease_key("j")) is None

    async def test_hand_backs_do_not_use_up_a_job_s_tries(self, local_worker, wire):
        await wire.enqueue(make_job(max_tokens=3000))
        for number in range(3):
            worker = local_worker(f"w{number}", step_s=0.002).start()
            await wire.until(has_tokens(number + 1))
            await worker.worker.hand_back()
            worker.task.cancel()
            await asyncio.wait([worker.task])
        assert await wire.client.get("arq:retry:j") == b"0"

    async def test_an_engine_s_death_gives_its_jobs_back_and_counts(
        self, local_worker, wire, model_files
    ):
        worker = local_worker(step_s=0.005).start()
        job = make_job(max_tokens=60)
        await wire.enqueue(job)
        await wire.until(has_tokens(3))
        worker.engine.die()
        await wire.until(lambda e: any(isinstance(event, Fence) for event in e))
        assert await wire.client.get("arq:retry:j") == b"2"
        events = await wire.finished()
        check_log(events)
        assert ids_of(events) == scripted_ids(model_files, job)


async def test_arq_s_own_timers_and_stores_are_off(local_worker):
    worker = local_worker().worker
    assert not worker.allow_abort_jobs
    assert not worker.log_results
    assert worker.keep_result_s == 0
    assert worker.job_serializer is worker.pool.job_serializer
    assert b"secret" in worker.job_serializer({"r": ValueError("secret")})  # an error packs


async def test_no_job_is_taken_while_the_engine_restarts(local_worker, wire):
    worker = local_worker()
    worker.engine.is_ready = False
    worker.start()
    await wire.enqueue(make_job())
    await asyncio.sleep(0.05)
    assert await wire.client.get(contract.lease_key("j")) is None
    worker.engine.is_ready = True
    worker.worker.wake()
    await wire.finished()


async def test_logs_name_jobs_and_never_prompts(local_worker, wire, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    logging.getLogger("arq").setLevel(logging.WARNING)
    local_worker().start()
    await wire.enqueue(make_job("good", prompts=["my secret"]))
    await wire.finished("good")

    def explode(job, *_):
        raise ValueError(job.prompts)

    monkeypatch.setattr("workers.generate.prepare", explode)
    await wire.enqueue(make_job("bad", prompts=["my secret"]))
    await wire.finished("bad")
    assert "job good done" in caplog.text
    assert "job bad: ValueError" in caplog.text
    assert "secret" not in caplog.text


async def test_a_job_starts_within_milliseconds_idle_or_busy(local_worker, wire):
    worker = local_worker(max_seqs=300, step_s=0.02, lease_s=30).start()
    await wire.until_true(lambda: wire.client.zcard("workers"))
    idle_ms = [await start_ms(wire, f"idle{n}") for n in range(15)]
    for number in range(256):
        await wire.enqueue(make_job(f"busy{number}", max_tokens=4000))
    await wire.until_true(lambda: worker.engine.stats.running >= 256)
    busy_ms = [await start_ms(wire, f"late{n}") for n in range(15)]
    assert statistics.median(idle_ms) < 25
    assert statistics.median(busy_ms) < 60


async def start_ms(wire, job_id: str) -> float:
    """From enqueue to event 0; the limits above leave room for a loaded machine."""
    async with wire.client.pubsub() as pubsub:
        await pubsub.subscribe(contract.api_channel(job_id))
        await pubsub.get_message(timeout=1)
        began_s = time.perf_counter()
        await wire.enqueue(make_job(job_id, max_tokens=1, home=job_id))
        assert await pubsub.get_message(timeout=5) is not None
        return (time.perf_counter() - began_s) * 1000
