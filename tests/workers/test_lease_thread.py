"""Leases in time: a busy loop keeps them, a hung one loses them, an outage ends nothing."""

import asyncio
import time
from typing import cast

import pytest
import redis

from tests.workers.wire import QUEUE, Wire, make_job
from workers import contract
from workers.lease import Leases
from workers.lease_thread import LeaseThread
from workers.redis_link import Scripts, close, connect


class Bench:
    """Leases of one worker over a server, and the thread that renews them."""

    def __init__(self, url: str, lease_s: float, loop_s: float) -> None:
        self.url = url
        self.wire = Wire(url)
        self.client = connect(url, QUEUE)
        self.leases = Leases(
            Scripts(self.client),
            worker="w1",
            queue=QUEUE,
            lease_s=lease_s,
            job_ttl_s=100,
            result_ttl_s=100,
        )
        self.looks: list[float] = []
        self.thread = LeaseThread(self.leases, url, self.looks.append, look_s=0.1, loop_s=loop_s)
        self.task: asyncio.Task[None] | None = None

    async def claim(self, job_id: str = "j"):
        """A job of ours, and the thread at work."""
        await self.wire.enqueue(make_job(job_id))
        args = ["w1", 1, 0, self.leases.lease_ms]
        await self.wire.script("claim", [QUEUE], args)
        if self.task is None:
            self.task = asyncio.create_task(self.thread.run())
        return self.leases.take(job_id, 1)

    async def renewed(self) -> None:
        """Wait for the next renewal."""
        before_s = self.leases._renewed_at_s
        await self.wire.until_true(lambda: self.leases._renewed_at_s > before_s)

    def holder(self, job_id: str = "j") -> bytes | None:
        """Who has the lease; asked without the loop."""
        with redis.Redis.from_url(self.url) as client:
            return cast(bytes | None, client.get(contract.lease_key(job_id)))

    async def end(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        await close(self.client)
        await self.wire.client.aclose()


@pytest.fixture
async def bench(redis_url):
    benches = []

    def make(*, url: str = redis_url, lease_s: float = 0.4, loop_s: float = 30.0) -> Bench:
        benches.append(Bench(url, lease_s, loop_s))
        return benches[-1]

    yield make
    for item in benches:
        await item.end()


async def test_a_lease_lives_as_long_as_its_worker(bench):
    table = bench()
    await table.claim()
    await asyncio.sleep(0.7)
    assert table.holder() == b"w1:1"
    await table.end()
    deadline = time.monotonic() + 5
    while table.holder() is not None:
        assert time.monotonic() < deadline


async def test_a_busy_loop_loses_no_lease(bench):
    table = bench()
    await table.claim()
    await table.renewed()
    time.sleep(0.7)  # noqa: ASYNC251, this is the busy loop
    assert table.holder() == b"w1:1"


async def test_a_hung_loop_loses_its_leases_and_takes_them_back_when_it_turns_again(bench):
    table = bench(loop_s=0.2)
    claim = await table.claim()
    await table.renewed()
    time.sleep(0.9)  # noqa: ASYNC251, this is the hung loop
    assert table.holder() is None
    assert table.leases.is_stale
    await table.wire.until_true(lambda: table.holder() == b"w1:1")
    assert not claim.is_lost
    await table.wire.until_true(lambda: not table.leases.is_stale)


async def test_what_others_took_meanwhile_is_lost(bench):
    table = bench(loop_s=0.2)
    claim = await table.claim()
    await table.renewed()
    time.sleep(0.9)  # noqa: ASYNC251, this is the hung loop
    await table.wire.script("claim", [QUEUE], ["w2", 1, 0, 60_000])
    assert table.holder() == b"w2:2"
    await table.wire.until_true(lambda: claim.is_lost)
    assert table.holder() == b"w2:2"


async def test_a_cancel_is_found_with_the_renewal(bench):
    table = bench()
    claim = await table.claim()
    await table.wire.client.set(contract.cancel_key("j"), 1)
    await table.wire.until_true(lambda: claim.is_cancelled)


async def test_the_loop_looks_after_the_engine_in_between(bench):
    table = bench(lease_s=30)
    await table.claim()
    await table.wire.until_true(lambda: len(table.looks) >= 5)


async def test_an_outage_is_waited_for(redis_server, bench):
    table = bench(url=redis_server.url)
    await table.claim()
    await table.renewed()
    redis_server.restart(down_s=0.3)
    await table.wire.until_true(lambda: table.holder() == b"w1:1")
    assert not table.task.done()
    await asyncio.sleep(0.6)
    assert table.holder() == b"w1:1"


async def test_an_error_of_ours_ends_the_worker(bench):
    table = bench()
    table.leases.take("j", cast(int, None))  # nothing that a script can read
    table.task = asyncio.create_task(table.thread.run())
    await asyncio.wait([table.task], timeout=5)
    assert isinstance(table.task.exception(), redis.RedisError)
