"""How much waits, and how long, in real sorted sets."""

import time

import pytest
import redis.asyncio

from api.queue_depths import CLASSES, Depth, QueueDepths
from workers.contract import class_key, queue_key


@pytest.fixture
async def client(redis_url):
    client = redis.asyncio.Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def depths(client):
    async def call(command):
        return await command()

    return QueueDepths(client, call)


async def wait_in(client, model, service_class, **ages_s):
    now_ms = time.time() * 1000
    scores = {name: now_ms - age_s * 1000 for name, age_s in ages_s.items()}
    await client.zadd(class_key(queue_key(model), service_class), scores)


async def test_each_class_of_each_model_has_its_number_and_its_oldest(client, depths):
    await wait_in(client, "m", "interactive", a=2, b=30)
    await wait_in(client, "m", "batch", c=500)
    found = {depth[:2]: depth[2:] for depth in await depths.look(["m", "n"])}
    assert set(found) == {(model, kind) for model in ("m", "n") for kind in CLASSES}
    num_jobs, oldest_s = found["m", "interactive"]
    assert (num_jobs, oldest_s) == (2, pytest.approx(30, abs=5))
    assert found["m", "batch"] == (1, pytest.approx(500, abs=5))
    assert found["m", "default"] == found["n", "batch"] == (0, 0.0)


async def test_a_clock_that_is_ahead_makes_no_negative_wait(client, depths):
    await wait_in(client, "m", "default", a=-60)
    assert Depth("m", "default", 1, 0.0) in await depths.look(["m"])


async def test_a_model_without_workers_is_shown_until_its_queue_is_empty(client, depths):
    await wait_in(client, "m", "default", a=1)
    await depths.look(["m"])
    shown = await depths.look([])
    assert [depth.num_jobs for depth in shown if depth.service_class == "default"] == [1]
    await client.flushall()
    assert {depth.num_jobs for depth in await depths.look([])} == {0}
    assert await depths.look([]) == []
