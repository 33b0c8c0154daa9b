"""Cases 5 to 7: Redis restarts, connections that break or say nothing, memory that is full."""

import asyncio

import pytest

from tests.chaos.client import CHAT, Refused, call
from tests.chaos.crowd import Crowd, question
from tests.chaos.fleet import LEASE_S, eventually
from workers import keys


async def refusal(port):
    """The error that a new request meets."""
    with pytest.raises(Refused) as caught:
        await call(port, "POST", CHAT, question(1, 3))
    return caught.value


def check_refusal(refused, code="queue_unavailable"):
    assert (refused.status, refused.error["code"]) == (503, code)
    assert 1 <= int(refused.headers["retry-after"]) <= 120


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_case_5_redis_restarts_in_mid_stream(fleet, oracle, how):
    async with Crowd(fleet, oracle) as crowd:
        await crowd.reach(10)
        fleet.redis.stop() if how == "stopped" else fleet.redis.kill()
        check_refusal(await refusal(fleet.ports[0]))
        pings = [stream.num_comments for stream in crowd.streams]
        await asyncio.sleep(1.5 * LEASE_S)
        connections = [stream.num_connections for stream in crowd.streams]
        assert connections == [1] * len(crowd.streams), "open streams must stay open"
        fleet.redis.start()
        await crowd.finish()
    assert all(s.num_comments > before for s, before in zip(crowd.streams, pings, strict=True))
    assert crowd.num_resumed() == 0


async def test_case_5_redis_comes_back_without_the_last_second(fleet, oracle):
    async with Crowd(fleet, oracle) as crowd:
        await crowd.reach(20)
        for node in fleet.workers:
            node.proxy.freeze()
        lose_tails(fleet, crowd)
        fleet.redis.restart()
        for node in fleet.workers:
            node.proxy.cut()
            node.proxy.restore()
        await crowd.finish()
    assert fleet.has_logged("lost the end of its log")


async def test_case_5_the_last_second_is_lost_and_its_worker_too(fleet, oracle):
    async with Crowd(fleet, oracle) as crowd:
        await crowd.reach(20)
        for node in fleet.workers:
            node.kill_tree()
        lose_tails(fleet, crowd)
        fleet.redis.restart()
        fleet.start_worker()
        await crowd.finish()  # made again, and equal to what was sent
    assert crowd.num_moved() == len(crowd.streams)


def lose_tails(fleet, crowd):
    """What a file that is synced every second may lose in a crash."""
    with fleet.client() as client:
        for stream in crowd.streams:
            client.rpop(keys.log_key(stream.job_id), 8)


async def test_case_6_subscriptions_of_one_api_process_fall_silent(fleet, oracle):
    async with Crowd(fleet, oracle, max_tokens=200) as crowd:
        await crowd.reach(10)
        fleet.apis[0].proxy.mute()  # connections stand, messages are lost
        await crowd.finish()
    assert crowd.num_resumed() == 0
    assert crowd.longest_silence_s() < 4, "the log must be read after a silence"


async def test_case_6_connections_of_one_api_process_are_cut(fleet, oracle):
    async with Crowd(fleet, oracle) as crowd:
        await crowd.reach(10)
        assert fleet.apis[0].proxy.cut() >= 2
        await crowd.reach(30)
        assert fleet.apis[0].proxy.cut() >= 2
        await crowd.finish()
    assert crowd.num_resumed() == 0


async def test_case_6_one_api_process_cannot_reach_redis(fleet, oracle):
    async with Crowd(fleet, oracle) as crowd:
        await crowd.reach(10)
        fleet.apis[0].proxy.refuse()
        check_refusal(await refusal(fleet.ports[0]))
        await crowd.until(lambda: fleet.num_running() == 0)  # jobs end, half of the clients wait
        assert not all(stream.is_over for stream in crowd.streams)
        fleet.apis[0].proxy.restore()
        await crowd.finish()
    assert crowd.num_resumed() == 0


@pytest.mark.parametrize(
    "outage_s", [0.0, 0.4 * LEASE_S, 2.5 * LEASE_S], ids=["cut", "short", "long"]
)
async def test_case_6_connections_of_a_worker_break(fleet, oracle, outage_s):
    async with Crowd(fleet, oracle) as crowd:
        await crowd.reach(10)
        victim = await crowd.busiest()
        victim.proxy.refuse()
        await asyncio.sleep(outage_s)
        victim.proxy.restore()
        await crowd.finish()
    assert victim.is_alive
    assert crowd.num_resumed() == 0
    if outage_s < LEASE_S:
        assert crowd.num_moved() == 0, "the worker kept its leases"


async def test_case_6_a_worker_whose_connections_freeze_loses_its_jobs(fleet, oracle):
    async with Crowd(fleet, oracle) as crowd:
        await crowd.reach(10)
        victim = await crowd.busiest()
        victim.proxy.freeze()
        await crowd.finish()
        victim.proxy.restore()  # what it wanted to write arrives late
        await asyncio.sleep(LEASE_S)
    assert crowd.num_moved() >= 40
    assert victim.is_alive


async def test_case_7_a_nearly_full_redis_refuses_new_work_and_ends_the_old(fleet, oracle):
    with fleet.client() as client:
        try:
            async with Crowd(fleet, oracle) as crowd:
                await crowd.reach(10)
                client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 0.9))
                await eventually_refused(fleet)
                await crowd.finish()  # there is room for the tokens of what runs
        finally:
            client.config_set("maxmemory", 0)
    assert crowd.num_resumed() == 0


async def eventually_refused(fleet):
    """The API looks at Redis' memory now and then."""
    for port in fleet.ports:
        async with asyncio.timeout(10):
            while True:
                try:
                    await call(port, "POST", CHAT, question(1, 1))
                except Refused as refused:
                    check_refusal(refused, "queue_memory_full")
                    break


async def test_case_7_a_full_redis_refuses_new_work_and_keeps_the_old(fleet, oracle):
    with fleet.client() as client:
        try:
            async with Crowd(fleet, oracle) as crowd:
                await crowd.reach(10)
                before = set(client.keys("job:*"))
                client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)
                for port in fleet.ports * 3:
                    check_refusal(await refusal(port), "queue_memory_full")
                assert set(client.keys("job:*")) == before, "a refused job leaves no record"
                await asyncio.sleep(2 * LEASE_S)
                assert not any(s.is_over or s.num_breaks for s in crowd.streams)
                client.config_set("maxmemory", 0)
                await crowd.finish()
        finally:
            client.config_set("maxmemory", 0)
    assert crowd.num_resumed() == 0
    await eventually(lambda: fleet.num_ready() == 2, "the workers serve again")
