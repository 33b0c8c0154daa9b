"""A job that no worker takes in time ends, once, and only if it still waits."""

import asyncio
import time

import msgspec
import pytest

from api.admission import Terms
from api.broker import CANCELLED, Broker
from api.config import ApiConfig
from api.delivery import Reader
from api.errors import ApiError
from api.job_store import LOOK_AGAIN_S, JobStore
from workers import contract
from workers.contract import Done, Failed, Job, Sampling, Started, Usage

QUEUE = contract.queue_key("m")


@pytest.fixture
async def broker(redis_url):
    broker = Broker(ApiConfig(redis_url=redis_url))
    await broker.start()
    yield broker
    await broker.close()


async def enqueue(broker, job_id="j", *, fields=None, **terms):
    job = Job(
        id=job_id,
        kind="completion",
        model="m",
        home=broker.api_id,
        created_s=int(time.time()),
        prompts=["a"],
        sampling=Sampling(seed=1),
        **(fields or {}),
    )
    await broker.enqueue(job, QUEUE, Terms(**terms))


async def script(broker, name, keys, args):
    registered = broker.redis.register_script(contract.load_script(name))
    return await registered(keys=keys, args=args)


async def claim(broker):
    return await script(broker, "claim", [QUEUE], ["w", 1, 0, 60_000])


async def log_of(broker, job_id="j"):
    return await broker.read_log(job_id)


async def test_a_job_that_waits_too_long_ends_for_want_of_a_worker(broker):
    await enqueue(broker, wait_ms=60_000)
    assert await broker.redis.zscore("chores", "wait:j") is not None
    await JobStore(broker).expire_wait("j")
    (failed,) = await log_of(broker)
    assert (failed.code, failed.offset) == ("no_workers", 0)
    assert "within 0 s" in failed.message
    assert await broker.redis.zcard(QUEUE) == 0
    assert await broker.redis.zscore("chores", "wait:j") is None
    assert await claim(broker) == []


async def test_a_job_whose_deadline_passes_ends_with_it(broker):
    await enqueue(broker, wait_ms=60_000, deadline_ms=1)
    await asyncio.sleep(0.005)
    await JobStore(broker).expire_wait("j")
    (failed,) = await log_of(broker)
    assert failed.code == "deadline_exceeded"


async def test_a_deadline_that_is_still_to_come_is_not_the_reason(broker):
    await enqueue(broker, wait_ms=1, deadline_ms=60_000)
    await JobStore(broker).expire_wait("j")
    assert [event.code for event in await log_of(broker)] == ["no_workers"]


async def test_it_ends_once(broker):
    await enqueue(broker, wait_ms=1)
    store = JobStore(broker)
    await asyncio.gather(*(store.expire_wait("j") for _ in range(5)))
    assert len(await log_of(broker)) == 1
    assert (await store.find("j", "")).last_number == 0


async def test_a_job_that_runs_is_left_alone(broker):
    await enqueue(broker, wait_ms=1)
    await claim(broker)
    await JobStore(broker).expire_wait("j")
    assert await log_of(broker) == []
    assert await broker.redis.exists(contract.cancel_key("j")) == 0


@pytest.mark.parametrize(
    "log",
    [[Started(0, 1)], [Started(0, 1), Done(1, Usage(1, 0))], [Failed(0, "timeout", "x")]],
    ids=["handed back", "done", "failed"],
)
async def test_a_job_that_has_said_something_is_left_alone(broker, log):
    await enqueue(broker, wait_ms=1)
    await broker.redis.rpush(contract.log_key("j"), *map(contract.encode, log))
    await JobStore(broker).expire_wait("j")
    assert await log_of(broker) == log
    assert await broker.redis.exists(contract.cancel_key("j")) == 0


async def crash(broker, job_id="j"):
    """The worker that holds the job said it had begun, and is gone with its lease."""
    await broker.redis.rpush(contract.log_key(job_id), contract.encode(Started(0, 1)))
    await broker.redis.delete(contract.lease_key(job_id))
    await broker.redis.zadd(contract.leases_key(QUEUE), {job_id: 1})


async def test_a_deadline_holds_for_a_job_whose_worker_died(broker):
    await enqueue(broker, deadline_ms=1)
    await claim(broker)
    await asyncio.sleep(0.005)
    store = JobStore(broker)
    assert await store.expire_wait("j") == LOOK_AGAIN_S  # its worker will end it
    assert await log_of(broker) == []
    await crash(broker)
    assert await store.expire_wait("j") is None
    assert [(e.offset, getattr(e, "code", "")) for e in await log_of(broker)] == [
        (0, ""),
        (1, "deadline_exceeded"),
    ]
    assert await broker.redis.zcard(QUEUE) == 0


async def test_a_cancel_holds_for_a_job_whose_worker_dies_and_has_no_heir(broker):
    await enqueue(broker)
    await claim(broker)
    await broker.cancel((await broker.view("j")).job, QUEUE)
    assert await broker.redis.zscore("chores", "wait:j") is not None
    store = JobStore(broker)
    assert await store.expire_wait("j") == LOOK_AGAIN_S
    await crash(broker)
    assert await store.expire_wait("j") is None
    assert (await log_of(broker))[-1] == msgspec.structs.replace(CANCELLED, offset=1)
    assert await broker.redis.zscore("chores", "wait:j") is None


async def test_a_job_that_is_no_more_is_nothing_to_do(broker):
    await JobStore(broker).expire_wait("gone")
    assert await broker.redis.keys("*") == []


async def test_work_that_nobody_waits_for_does_not_vanish_with_its_record(broker):
    await enqueue(broker, fields={"is_detached": True, "webhook": "http://a.example"})
    score = await broker.redis.zscore("chores", "wait:j")
    left_ms = await broker.redis.pttl(contract.job_key("j"))
    assert time.time() * 1000 < score < time.time() * 1000 + left_ms - 60_000
    assert await JobStore(broker).expire_wait("j") is None
    assert [event.code for event in await log_of(broker)] == ["job_expired"]
    assert await broker.redis.zcard(QUEUE) == 0
    assert await broker.redis.zscore("chores", "ended:j") is not None, "its webhook is told"


async def test_whoever_waits_hears_of_it(broker):
    await enqueue(broker, wait_ms=1)
    reader = Reader("j")
    broker.open(reader, broker.api_id)
    await JobStore(broker).expire_wait("j")
    await reader.wait_for(20)
    assert isinstance(reader.first, Failed)
    broker.release(reader, broker.api_id)


async def test_a_job_whose_cancel_comes_first_never_waits(broker):
    job = Job(
        id="j",
        kind="completion",
        model="m",
        home=broker.api_id,
        created_s=1,
        prompts=["a"],
        sampling=Sampling(seed=1),
    )
    await broker.cancel(job, QUEUE)
    with pytest.raises(ApiError) as caught:
        await broker.enqueue(job, QUEUE)
    assert caught.value.code == "cancelled"
    assert await broker.redis.exists(contract.job_key("j"), QUEUE) == 0
