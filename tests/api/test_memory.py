"""Redis' memory: when it is full, and how seldom it is asked."""

from types import SimpleNamespace

import pytest
import redis
from redis.exceptions import NoPermissionError

from api.errors import ApiError
from api.memory import EvictingRedis, Memory, MemoryGuard, check_at_start
from workers.redis_policy import trouble as trouble_of

URL = "redis://:secret@host:6379/0"


class FakeRedis:
    """What INFO says, and how often it was asked."""

    def __init__(self, **info):
        self.said = info
        self.num_asked = 0
        self.error = None

    async def info(self, section):
        assert section == "memory"
        self.num_asked += 1
        if self.error is not None:
            raise self.error
        return self.said


async def call(command):
    try:
        return await command()
    except OSError as error:
        raise ApiError("queue_unavailable", "away") from error


def guard(server, max_fraction=0.85):
    return MemoryGuard(server, call, URL, max_fraction)


@pytest.mark.parametrize(
    ("used", "bound", "is_full"),
    [(84, 100, False), (85, 100, True), (101, 100, True), (10**9, 0, False), (0, 100, False)],
)
def test_it_is_full_from_a_fraction_on_unless_there_is_no_bound(used, bound, is_full):
    assert Memory(used, bound).is_full(0.85) == is_full


def test_what_a_managed_server_does_not_tell_is_taken_for_good():
    assert Memory.of({}) == Memory(0, 0, "noeviction")
    info = {"used_memory": 5, "maxmemory": "7", "maxmemory_policy": "allkeys-lru"}
    assert Memory.of(info) == Memory(5, 7, "allkeys-lru")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
def test_every_policy_that_evicts_is_trouble(policy):
    trouble = trouble_of(policy, URL)
    assert policy in trouble
    assert "redis://host:6379/0" in trouble
    assert "secret" not in trouble
    assert trouble_of(Memory().policy, "x") == ""


async def test_new_work_is_refused_when_it_is_full():
    with pytest.raises(ApiError) as caught:
        await guard(FakeRedis(used_memory=90, maxmemory=100)).check()
    assert (caught.value.status, caught.value.code) == (503, "queue_memory_full")
    assert caught.value.retry_after_s
    await guard(FakeRedis(used_memory=80, maxmemory=100)).check()


async def test_it_is_asked_once_a_second_at_most(monkeypatch):
    now = [100.0]
    # The module's own: event loops of other threads live by the clock.
    monkeypatch.setattr("api.memory.time", SimpleNamespace(monotonic=lambda: now[0]))
    server = FakeRedis(used_memory=80, maxmemory=100)
    watched = guard(server)
    for _ in range(10):
        await watched.check()
    assert server.num_asked == 1
    server.said["used_memory"] = 90
    await watched.check()
    now[0] += 1.0
    with pytest.raises(ApiError):
        await watched.check()
    assert server.num_asked == 2


async def test_a_redis_that_is_away_is_asked_again_at_once():
    server = FakeRedis(used_memory=80, maxmemory=100)
    server.error = OSError("away")
    watched = guard(server)
    for _ in range(2):
        with pytest.raises(ApiError) as caught:
            await watched.check()
        assert caught.value.code == "queue_unavailable"
    server.error = None
    await watched.check()
    assert server.num_asked == 3


async def test_a_redis_that_may_not_be_asked_is_trusted(caplog):
    server = FakeRedis()
    server.error = NoPermissionError("no INFO for you")
    watched = guard(server)
    await watched.check()
    server.error = None
    server.said = {"used_memory": 99, "maxmemory": 100}
    await watched.check()
    assert server.num_asked == 1
    assert caplog.text.count("does not tell how much memory") == 1


async def test_a_policy_that_turns_bad_is_told_once_and_refused(caplog, monkeypatch):
    monkeypatch.setattr("api.memory.MAX_AGE_S", 0.0)
    watched = guard(FakeRedis(maxmemory_policy="allkeys-lru"))
    for _ in range(3):
        with pytest.raises(ApiError) as caught:
            await watched.check_policy()
        assert caught.value.code == "queue_unavailable"
    assert caplog.text.count("evicts keys") == 1


def test_at_the_start_a_redis_that_evicts_is_refused_and_one_that_is_away_is_not(redis_server):
    check_at_start(redis_server.url)
    redis_server.stop()
    check_at_start(redis_server.url)
    redis_server.start()
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lfu")
    with pytest.raises(EvictingRedis, match="allkeys-lfu"):
        check_at_start(redis_server.url)
