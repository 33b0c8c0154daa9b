"""Cases 1 to 4 and 22: processes that die or freeze in mid-stream."""

import asyncio

import psutil

from tests.chaos.crowd import Crowd
from tests.chaos.fleet import LEASE_S, eventually


async def test_nothing_happens_and_every_stream_is_whole(fleet, oracle):
    async with Crowd(fleet, oracle) as crowd:
        await crowd.finish()
    assert crowd.num_moved() == 0
    assert crowd.num_resumed() == 0


async def test_case_1_a_killed_worker_costs_no_token(fleet, oracle):
    async with Crowd(fleet, oracle) as crowd:
        await crowd.reach(10)
        victim = await crowd.busiest()
        engine = victim.engine()
        victim.kill()
        await crowd.finish()
    assert crowd.num_moved() >= 40
    assert crowd.num_resumed() == 0, "the clients must not notice more than a pause"
    assert crowd.longest_silence_s() < LEASE_S + 3
    await eventually(lambda: is_gone(engine), "the engine process ended after its worker")


async def test_case_2_a_killed_api_process_costs_no_token(fleet, oracle):
    async with Crowd(fleet, oracle) as crowd:
        await crowd.reach(10)
        fleet.apis[0].kill_tree()
        await crowd.finish()
    assert crowd.num_resumed() >= 50
    assert crowd.num_moved() == 0, "the jobs must go on"


async def test_case_3_api_and_worker_die_together(fleet, oracle):
    async with Crowd(fleet, oracle) as crowd:
        await crowd.reach(10)
        (await crowd.busiest()).kill_tree()
        fleet.apis[1].kill_tree()
        await crowd.finish()
    assert crowd.num_moved() >= 40
    assert crowd.num_resumed() >= 50


async def test_case_3_everything_dies_and_comes_back(fleet, oracle):
    async with Crowd(fleet, oracle) as crowd:
        await crowd.reach(10)
        for node in (*fleet.workers, *fleet.apis):
            node.kill_tree()
        fleet.start_worker()
        crowd.ports[:] = [fleet.start_api().port]
        await crowd.finish()
    assert crowd.num_moved() == crowd.num_resumed() == len(crowd.streams)


async def test_case_4_a_frozen_worker_wakes_after_its_lease(fleet, oracle):
    async with Crowd(fleet, oracle) as crowd:
        await crowd.reach(10)
        zombie = await crowd.busiest()
        zombie.pause()
        await crowd.until(lambda: crowd.num_moved() >= 40)
        zombie.resume()  # it writes what it had, and must be refused
        await crowd.finish()
    assert crowd.num_resumed() == 0
    assert zombie.is_alive
    await eventually(lambda: fleet.num_running() == 0, "the zombie dropped what it had lost")


async def test_case_4_a_frozen_worker_wakes_when_all_is_over(fleet, oracle):
    async with Crowd(fleet, oracle) as crowd:
        await crowd.reach(10)
        zombie = await crowd.busiest()
        zombie.pause()
        await crowd.finish()
        lengths = [len(fleet.log_of(s.job_id)) for s in crowd.streams]
        zombie.resume()
        await asyncio.sleep(3 * LEASE_S)
        assert [len(fleet.log_of(s.job_id)) for s in crowd.streams] == lengths


async def test_case_22_an_engine_process_that_dies_is_replaced(fleet, oracle):
    async with Crowd(fleet, oracle) as crowd:
        await crowd.reach(10)
        victim = await crowd.busiest()
        victim.engine().kill()
        await crowd.finish()
    assert crowd.num_moved() >= 40
    assert crowd.num_resumed() == 0
    assert victim.is_alive
    await eventually(lambda: fleet.num_ready() == 2, "the worker has a new engine")


def is_gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
