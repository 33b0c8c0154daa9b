"""The log's writer against a real Redis: what it sends, and what it does when Redis fails."""

import asyncio
from typing import Any

import pytest
import redis

from tests.workers.wire import QUEUE
from workers import contract
from workers.contract import Delta, Done, Failed, Started, Tokens, Usage, Vectors
from workers.redis_link import Scripts, connect
from workers.token_log import MAX_BATCH_BYTES, MAX_PENDING_BYTES, JobLog, TokenLog


class CountingScripts(Scripts):
    """Counts calls, holds them back, and fails as told."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.errors: list[Exception] = []

    async def run(self, name: str, keys: Any = (), args: Any = ()) -> Any:
        self.calls += 1
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop()
        return await super().run(name, keys, args)


@pytest.fixture
async def scripts(redis_url):
    client = connect(redis_url, QUEUE)
    yield CountingScripts(client)
    await client.aclose(close_connection_pool=True)


@pytest.fixture
async def log_of(scripts):
    """Makes writers that run; the last one's settings may be given."""
    tasks = []

    def make(**settings: int) -> TokenLog:
        token_log = TokenLog(scripts, **{"job_ttl_s": 100, "result_ttl_s": 5, **settings})
        tasks.append(asyncio.create_task(token_log.run()))
        return token_log

    yield make
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def job_log(job_id: str = "j", home: str = "A") -> JobLog:
    return JobLog(job_id, home, [], 0)


def tokens(log: JobLog, *ids: int) -> Tokens:
    return Tokens(log.offset, tuple(Delta(0, (id_,), "") for id_ in ids))


async def write(token_log: TokenLog, log: JobLog, *ids: int) -> None:
    token_log.append(log, tokens(log, *ids))
    token_log.flush()
    async with asyncio.timeout(5):
        await log.settled()


async def test_one_call_carries_a_step_of_all_jobs_of_a_channel(log_of, scripts, wire):
    token_log, logs = log_of(), [job_log(f"j{n}") for n in range(256)]
    for log in logs:
        token_log.append(log, tokens(log, 1))
    token_log.flush()
    for log in logs:
        assert await log.settled()
    assert scripts.calls == 1
    assert await wire.client.llen("log:j255") == 1


async def test_each_api_process_gets_its_own_call(log_of, scripts):
    token_log, logs = log_of(), [job_log("a", "A"), job_log("b", "B")]
    for log in logs:
        token_log.append(log, tokens(log, 1))
    token_log.flush()
    assert [await log.settled() for log in logs] == [True, True]
    assert scripts.calls == 2


async def test_steps_that_end_during_a_flush_leave_together(log_of, scripts, wire):
    token_log, log = log_of(), job_log()
    scripts.gate.clear()
    for number in range(10):
        token_log.append(log, tokens(log, number))
        token_log.flush()
        await asyncio.sleep(0)
    scripts.gate.set()
    await log.settled()
    assert scripts.calls <= 2
    assert await wire.client.llen("log:j") == 10


async def test_the_first_entry_sets_the_job_s_expiry_and_the_last_the_result_s(log_of, wire):
    token_log, log = log_of(), job_log()
    await write(token_log, log, 1)
    assert 90 < await wire.client.ttl("log:j") <= 100
    token_log.append(log, Done(log.offset, Usage(1, 1)))
    token_log.flush()
    await log.settled()
    assert await wire.client.ttl("log:j") <= 5


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("gone"),
        redis.exceptions.BusyLoadingError("loading"),
        redis.exceptions.OutOfMemoryError("full"),
        redis.exceptions.ReadOnlyError("failover"),
        ConnectionRefusedError("nobody there"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_tries_again_until_redis_takes_it(log_of, scripts, wire, error):
    token_log, log = log_of(), job_log()
    scripts.errors = [error, error]
    await write(token_log, log, 1)
    assert scripts.calls == 3
    assert await wire.client.llen("log:j") == 1


async def test_writes_again_what_redis_lost(log_of, wire):
    token_log, log = log_of(), job_log()
    for number in range(5):
        await write(token_log, log, number)
    await wire.client.rpop("log:j", 3)
    await write(token_log, log, 5)
    assert contract.completion_tokens(await wire.events()) == 6
    await wire.client.delete("log:j")
    await write(token_log, log, 6)
    assert contract.completion_tokens(await wire.events()) == 7
    assert await wire.client.ttl("log:j") > 90


async def test_stops_at_a_fence_and_says_so_once(log_of, wire):
    token_log, log, told = log_of(), job_log(), []
    log.on_fenced = lambda: told.append(True)
    await write(token_log, log, 1)
    await wire.client.rpush("log:j", contract.encode(contract.Fence(2, "w2")))
    token_log.append(log, tokens(log, 2))
    token_log.append(log, tokens(log, 3))
    token_log.flush()
    assert not await log.settled()
    token_log.append(log, tokens(log, 4))
    token_log.flush()
    await asyncio.sleep(0.02)
    assert told == [True]
    assert await wire.client.llen("log:j") == 2
    assert token_log.has_room


async def test_a_fenced_job_does_not_hold_up_its_neighbours(log_of, wire):
    token_log, fenced, other = log_of(), job_log("f"), job_log("o")
    await wire.client.rpush("log:f", b"\x91\xa1x")
    for log in (fenced, other):
        token_log.append(log, tokens(log, 1))
    token_log.flush()
    assert [await fenced.settled(), await other.settled()] == [False, True]


async def test_above_the_high_water_mark_there_is_no_room_until_redis_catches_up(log_of, scripts):
    token_log, log = log_of(max_pending=3), job_log()
    scripts.gate.clear()
    for number in range(3):
        token_log.append(log, tokens(log, number))
    assert not token_log.has_room
    token_log.flush()
    scripts.gate.set()
    async with asyncio.timeout(5):
        await token_log.room()
    await log.settled()
    assert token_log.has_room


async def test_a_forgotten_log_sends_nothing_more(log_of, wire):
    token_log, log = log_of(), job_log()
    token_log.append(log, tokens(log, 1))
    token_log.forget(log)
    token_log.flush()
    await asyncio.sleep(0.02)
    assert await wire.client.exists("log:j") == 0


async def test_a_long_backlog_crosses_in_several_calls_and_in_order(log_of, scripts, wire):
    token_log, log = log_of(), job_log()
    for number in range(9000):
        token_log.append(log, tokens(log, number))
    token_log.flush()
    await log.settled()
    assert scripts.calls == 3
    events = await wire.events()
    assert [event.offset for event in events] == list(range(9000))


def vectors(log, number, size=1 << 16):
    return Vectors(log.offset, number, 1, bytes(size))


async def test_large_entries_cross_in_calls_of_a_few_megabytes(log_of, scripts, wire):
    token_log, log = log_of(), job_log()
    for number in range(3 * MAX_BATCH_BYTES // (1 << 16)):
        token_log.append(log, vectors(log, number))
    token_log.flush()
    await log.settled()
    assert scripts.calls == 3
    assert [event.first for event in await wire.events()] == list(range(len(log.entries)))


async def test_large_entries_fill_the_memory_of_the_log_sooner_than_small_ones(log_of, scripts):
    token_log, log = log_of(), job_log()
    scripts.gate.clear()
    while token_log.has_room:
        token_log.append(log, vectors(log, 0, size=1 << 20))
    assert len(log.entries) == MAX_PENDING_BYTES >> 20
    token_log.forget(log)
    assert token_log.has_room


async def test_offsets_follow_the_events(log_of):
    token_log, log = log_of(), job_log()
    token_log.append(log, Started(0, 1))
    token_log.append(log, tokens(log, 1, 2, 3))
    assert log.offset == 4
    token_log.append(log, Failed(4, "x", ""))
    assert log.is_over


class TestAfterAnOutage:
    """The first write after it waits until the leases have been looked at."""

    async def broken(self, log_of, scripts, recheck) -> tuple[TokenLog, JobLog]:
        """A writer whose next write fails, with one entry appended."""
        token_log, log = log_of(), job_log()
        await write(token_log, log, 1)
        token_log.recheck = recheck
        scripts.errors = [redis.ConnectionError("gone")]
        scripts.calls = 0
        token_log.append(log, tokens(log, 2))
        token_log.flush()
        return token_log, log

    async def test_the_leases_are_looked_at_before_the_next_write(self, log_of, scripts, wire):
        lengths = []

        async def recheck() -> None:
            lengths.append(await wire.client.llen("log:j"))
            if len(lengths) < 3:
                raise redis.ConnectionError("still gone")

        _, log = await self.broken(log_of, scripts, recheck)
        assert await log.settled()
        assert lengths == [1, 1, 1]
        assert scripts.calls == 2
        assert await wire.client.llen("log:j") == 2

    async def test_a_job_that_was_lost_meanwhile_is_not_written(self, log_of, scripts, wire):
        async def recheck() -> None:
            token_log.forget(log)

        token_log, log = await self.broken(log_of, scripts, recheck)
        assert not await log.settled()
        other = job_log("other")
        await write(token_log, other, 1)
        assert await wire.client.llen("log:j") == 1

    async def test_what_was_made_during_it_leaves_with_the_first_write(self, log_of, scripts, wire):
        back = asyncio.Event()

        async def recheck() -> None:
            await back.wait()

        token_log, log = await self.broken(log_of, scripts, recheck)
        for number in range(50):
            token_log.append(log, tokens(log, number))
            token_log.flush()
            await asyncio.sleep(0)
        back.set()
        assert await log.settled()
        assert scripts.calls == 2
        assert await wire.client.llen("log:j") == 52
        await write(token_log, log, 1)
        assert scripts.calls == 3
