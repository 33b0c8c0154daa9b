"""A Redis that drops keys is refused at the start, by one sentence."""

import logging

import pytest
import redis
import redis.asyncio

from workers.environment import SettingError
from workers.redis_policy import check_policy, place_of, refuse_eviction

EVICTING = "allkeys-lru"


@pytest.fixture
async def client(redis_server):
    client = redis.asyncio.Redis.from_url(redis_server.url)
    yield client
    await client.aclose()


def set_policy(url: str, policy: str) -> None:
    with redis.Redis.from_url(url) as admin:
        admin.config_set("maxmemory-policy", policy)


async def test_a_server_that_evicts_is_refused(client, redis_server):
    await check_policy(client, redis_server.url)
    set_policy(redis_server.url, EVICTING)
    with pytest.raises(SettingError, match=r"evicts keys when it is full .*allkeys-lru"):
        await check_policy(client, redis_server.url)


async def test_a_server_that_hides_its_memory_is_asked_for_its_configuration(client, redis_server):
    set_policy(redis_server.url, EVICTING)
    await client.execute_command("ACL", "SETUSER", "default", "-info")
    with pytest.raises(SettingError, match=EVICTING):
        await check_policy(client, redis_server.url)


async def test_a_server_that_tells_nothing_is_let_in_with_a_warning(client, redis_server, caplog):
    await client.execute_command("ACL", "SETUSER", "default", "-info", "-config")
    with caplog.at_level(logging.WARNING):
        await check_policy(client, redis_server.url)
    assert "does not tell its maxmemory-policy" in caplog.text


def test_the_sentence_names_the_server_and_not_its_password():
    url = "rediss://me:secret@redis.example:6380/3"
    assert place_of(url) == "rediss://redis.example:6380/3"
    with pytest.raises(SettingError, match=r"redis\.example:6380") as refusal:
        refuse_eviction("volatile-ttl", url)
    assert "secret" not in str(refusal.value)


def test_a_worker_on_such_a_server_exits_2(processes, redis_server):
    set_policy(redis_server.url, EVICTING)
    process = processes.start(redis_server.url, TRAMONTANE_LOG="error")
    assert process.wait(20) == 2
    (line,) = processes.logs().splitlines()
    assert line.startswith("tramontane worker: Redis at unix://")
    assert "set it to noeviction" in line
