"""A batch whose processes die at any moment: every line counts once, whatever was being done.

Every call to Redis is a moment. A process dies before or after one, and a new one goes on.
"""

import asyncio
import itertools
import tracemalloc

import pytest

from tests.api.batch_app import line, lines, outputs, process
from tests.api.fake_worker import MODEL, FakeWorker
from workers import contract
from workers.contract import Delta, Done, Failed, Started, Tokens, Usage

QUEUE = contract.queue_key(MODEL)
MAX_DEATHS = 400
NOW_S = 1_000_000.0


class Killed(BaseException):
    """The process is gone."""


class Fleet:
    """A worker's effects without a worker: what waits has ended when a test says so."""

    def __init__(self, app):
        self._redis = app.redis
        self.answered: list[str] = []

    async def announce(self):
        card = contract.ModelCard(
            name=MODEL, queue=QUEUE, context_length=2048, vocab_size=100, created_s=1
        )
        script = self._redis.register_script(contract.load_script("heartbeat"))
        keys = [
            contract.worker_key("w"),
            contract.WORKERS_KEY,
            contract.MODELS_KEY,
            contract.MODELS_SEEN_KEY,
            contract.isq_key(MODEL),
        ]
        beat = contract.Heartbeat(
            worker="w", model=MODEL, running=0, waiting=0, kv_blocks_used=0, kv_blocks_total=1
        )
        args = ["w", contract.encode(beat), 600_000, MODEL, contract.encode(card), 1000]
        await script(keys=keys, args=args)

    async def answer(self, most=1000):
        """End `most` of the jobs in the queue, as a worker would."""
        for job_id in [name.decode() for name in await self._redis.zrange(QUEUE, 0, most - 1)]:
            self.answered.append(job_id)
            job = contract.decode_job(await self._redis.hget(contract.job_key(job_id), "spec"))
            prompt = (job.messages or [])[0]["content"]
            events: list[contract.Event] = [Started(0, 7)]
            if prompt == "fail":
                events.append(Failed(1, "engine_error", "it failed"))
            else:
                events.append(Tokens(1, (Delta(0, (1,), prompt, "stop"),)))
                events.append(Done(2, Usage(7, 1, 0)))
            await self._redis.rpush(contract.log_key(job_id), *map(contract.encode, events))
            await self._redis.zrem(QUEUE, job_id)


async def live(app, fleet, batch_id, act):
    """Drive a batch to its end in this process, unless it dies."""
    for turn in itertools.count():
        assert turn < 100
        again_s = await app.handle(batch_id)
        if again_s is None:
            return
        await act(app, batch_id)
        await fleet.answer(2)


async def answer_all(app, batch_id):
    pass


async def cancel_early(app, batch_id):
    await app.parts.store.cancel(batch_id)


async def expire_early(app, batch_id):
    app.now_s = lambda: NOW_S + 24 * 3600


GOOD = [f"g{i}" for i in range(6)]
FILE = "\n".join(
    [*(line(i, i) for i in GOOD[:3]), line("bad", body={"n": 0}), line("broken", "fail")]
    + [line(i, i) for i in GOOD[3:]]
)


def die_at(app, number, when):
    """Have the process die around its call number `number`, counted from 1."""
    calls = itertools.count(1)

    def look():
        if next(calls) == number:
            raise Killed

    setattr(app, when, look)


SCENARIOS = {
    "completed": (FILE, answer_all),
    "cancelled": (FILE, cancel_early),
    "expired": (FILE, expire_early),
    "failed": (FILE + "\n{", answer_all),
}


@pytest.mark.parametrize("stride", [6, pytest.param(1, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(("when", "start"), [("before_call", 1), ("after_call", 4)])
@pytest.mark.parametrize("status", SCENARIOS)
async def test_a_death_at_any_call_loses_and_doubles_nothing(
    redis_url, status, when, start, stride
):
    """Every sixth call of each, others before than after; at night every one."""
    data, act = SCENARIOS[status]
    first_number = min(start, stride)
    settings = {"batch_window": 3}
    async with process(redis_url, **settings) as first, process(redis_url, **settings) as second:
        for number in range(first_number, MAX_DEATHS, stride):
            fleet = Fleet(second)
            await fleet.announce()
            second.now_s = first.now_s = lambda: NOW_S
            batch_id = await second.begin(data)
            die_at(first, number, when)
            try:
                await live(first, fleet, batch_id, act)
                has_died = False
            except Killed:
                has_died = True
            first.before_call = first.after_call = lambda: None
            await live(second, fleet, batch_id, act)
            await check(second, fleet, batch_id, status)
            if not has_died:
                break
        assert 5 < number < MAX_DEATHS - stride


async def check(app, fleet, batch_id, status):
    """What must hold of a batch that ended, however it got there."""
    batch, answers, errors = await outputs(app, batch_id)
    assert batch.status == status
    assert not set(answers) & set(errors)
    found = {**answers, **errors}
    counts = batch.request_counts
    assert (counts.completed, counts.failed) == (len(answers), len(errors))
    if status == "failed":
        assert (found, [e.code for e in batch.errors.data]) == ({}, ["invalid_json_line"])
    else:
        assert counts.total in (0, len(found))
        assert set(found) in (set(), {*GOOD, "bad", "broken"})
    if status == "completed":
        assert set(answers) == set(GOOD)
    for custom_id, answer in answers.items():
        assert answer["response"]["body"]["choices"][0]["message"]["content"] == custom_id
    assert await app.redis.zcard(QUEUE) == 0
    assert len(set(fleet.answered)) == len(fleet.answered)  # no job ran twice
    left = {key.decode() async for key in app.redis.scan_iter(f"batch:{batch_id}*")}
    assert left == {f"batch:{batch_id}"}
    assert not await app.redis.exists(f"file:{batch.input_file_id}:users")


async def test_another_process_goes_on_when_one_is_gone(redis_url):
    worker = FakeWorker(redis_url)
    worker.start()
    try:
        async with process(redis_url, batch_window=8) as second:
            async with process(redis_url, batch_window=8) as first:
                first.work()
                batch_id = await first.begin(lines(200))

                async def has_begun():
                    batch = await first.client.batches.retrieve(batch_id)
                    return batch.request_counts.completed >= 20

                await first.until(has_begun, "the batch is on its way")
            second.work()
            batch, answers, errors = await outputs(second, batch_id)
            assert (batch.status, len(answers), errors) == ("completed", 200, {})
    finally:
        worker.stop()


async def test_processes_that_do_the_same_at_a_time_do_it_once(redis_url):
    async with (
        process(redis_url, batch_window=16) as one,
        process(redis_url, batch_window=16) as two,
    ):
        fleet = Fleet(one)
        await fleet.announce()
        batch_id = await one.begin(lines(300))
        turns = 0
        while not await one._is_ended(batch_id):
            assert (turns := turns + 1) < 1000
            await asyncio.gather(*(app.handle(batch_id) for app in (one, two, one, two)))
            assert await one.redis.zcard(QUEUE) <= 16
            await fleet.answer(5)
        batch, answers, errors = await outputs(one, batch_id)
        assert (len(answers), errors, batch.request_counts.completed) == (300, {}, 300)
        assert len(set(fleet.answered)) == len(fleet.answered) == 300


async def test_jobs_that_redis_lost_are_made_again(redis_url):
    async with process(redis_url, batch_window=6) as app:
        fleet = Fleet(app)
        await fleet.announce()
        batch_id = await app.begin(lines(12))
        await app.handle(batch_id)
        for number in (2, 5):
            await app.redis.delete(contract.job_key(f"{batch_id}-{number}"))
            await app.redis.delete(contract.arq_job_key(f"{batch_id}-{number}"))
            await app.redis.zrem(QUEUE, f"{batch_id}-{number}")
        await live(app, fleet, batch_id, answer_all)
        assert len((await outputs(app, batch_id))[1]) == 12


async def test_a_model_that_is_restarted_loses_no_lines_but_one_that_nobody_knows_does(redis_url):
    async with process(redis_url, batch_window=2, strict_model_names=True) as app:
        fleet = Fleet(app)
        await fleet.announce()
        body = {"model": MODEL}
        data = [line(f"r{i}", body=body) for i in range(6)]
        batch_id = await app.begin("\n".join([line("typo", body={"model": "nobody"}), *data]))
        await app.handle(batch_id)
        cards = await app.redis.hgetall(contract.MODELS_KEY)
        card = contract.decode_card(next(iter(cards.values())))
        other = contract.encode(card).replace(MODEL.encode(), b"tiny/pomo")
        await app.redis.delete(contract.MODELS_KEY)
        await app.redis.hset(contract.MODELS_KEY, "tiny/pomo", other)
        await app.redis.zadd(contract.MODELS_SEEN_KEY, {"tiny/pomo": 2e9})
        await asyncio.sleep(1.1)  # the directory is that old at most
        await fleet.answer()
        assert await app.handle(batch_id)
        assert (await app.client.batches.retrieve(batch_id)).request_counts.failed == 1
        await app.redis.hset(contract.MODELS_KEY, mapping=cards)
        await asyncio.sleep(1.1)
        await live(app, fleet, batch_id, answer_all)
        _, answers, errors = await outputs(app, batch_id)
        assert (len(answers), set(errors)) == (6, {"typo"})
        assert errors["typo"]["response"]["status_code"] == 404


@pytest.mark.parametrize("total", [5_000, pytest.param(50_000, marks=pytest.mark.nightly)])
async def test_a_long_file_keeps_the_memory_flat(redis_url, total):
    async with process(redis_url, batch_window=50) as app:
        fleet = Fleet(app)
        await fleet.announce()
        batch_id = await app.begin(lines(total))
        tracemalloc.start()
        try:
            assert await app.handle(batch_id)
            state = await app.parts.store.state(batch_id)
            assert (state.status, state.total, state.taken) == ("in_progress", total, 50)
            await app.parts.store.cancel(batch_id)
            await live(app, fleet, batch_id, answer_all)
            assert tracemalloc.get_traced_memory()[1] < 2 << 20
        finally:
            tracemalloc.stop()
        batch = await app.client.batches.retrieve(batch_id)
        assert (batch.status, batch.request_counts.failed) == ("cancelled", total)
        assert len(await app.lines(batch.error_file_id)) == total


async def test_a_job_enqueued_for_a_batch_that_just_ended_is_given_up(redis_url):
    async with process(redis_url) as slow, process(redis_url) as other:
        await Fleet(slow).announce()
        batch_id = await slow.begin(lines(4))
        enqueue = slow.parts.run._enqueue

        async def enqueue_late(job, queue):
            await other.parts.store.cancel(batch_id)
            await other.handle(batch_id)
            await enqueue(job, queue)

        slow.parts.run._enqueue = enqueue_late
        await slow.handle(batch_id)
        batch, answers, errors = await outputs(slow, batch_id)
        assert (batch.status, answers, len(errors)) == ("cancelled", {}, 4)
        assert await slow.redis.zcard(QUEUE) == 0


async def test_a_batch_ends_once(redis_url):
    async with process(redis_url) as app:
        fleet = Fleet(app)
        await fleet.announce()
        batch_id = await app.begin(lines(2))
        await app.handle(batch_id)
        before = await app.parts.store.state(batch_id)
        await live(app, fleet, batch_id, answer_all)
        after = await app.parts.store.state(batch_id)
        assert not await app.parts.store.finish(before, "expired")
        await app.parts.store.cancel(batch_id)
        assert await app.parts.store.state(batch_id) == after
