"""Cases 8 and 9: SIGTERM, as a deploy sends it, and a rolling restart of everything."""

import asyncio
from functools import partial

from tests.chaos.client import Stream
from tests.chaos.crowd import Crowd, question
from tests.chaos.fleet import eventually, is_ready
from tests.chaos.verdict import check

LONG_LEASE_S = 20.0  # a hand-over that waits for leases would be seen


async def exit_status(node, timeout_s=30.0):
    """Of a process that was told to stop; the clients go on meanwhile."""
    return await asyncio.to_thread(node.process.wait, timeout_s)


async def test_case_8_a_stopping_worker_hands_its_jobs_over(start_fleet, oracle):
    fleet = start_fleet(
        apis=1, workers=2, TRAMONTANE_LEASE_S=str(LONG_LEASE_S), TRAMONTANE_DRAIN_S="0.5"
    )
    old, new = fleet.workers
    new.pause()  # so that the old one gets all
    async with (
        Crowd(fleet, oracle, 40, max_tokens=200) as longer,
        Crowd(fleet, oracle, 40, max_tokens=35) as shorter,
    ):
        await asyncio.gather(longer.reach(10), shorter.reach(10))
        new.resume()
        old.terminate()
        assert await exit_status(old) == 0
        await asyncio.gather(longer.finish(), shorter.finish())
    assert longer.num_moved() == 40, "what did not fit went to the new worker"
    assert longer.num_resumed() == shorter.num_resumed() == 0
    assert longer.longest_silence_s() < 3


async def test_case_8_what_fits_into_the_drain_is_finished(start_fleet, oracle):
    fleet = start_fleet(TRAMONTANE_DRAIN_S="25", TRAMONTANE_LEASE_S=str(LONG_LEASE_S))
    async with Crowd(fleet, oracle, 40) as crowd:
        await crowd.reach(10)
        fleet.workers[0].terminate()
        await crowd.finish()
        assert await exit_status(fleet.workers[0]) == 0
    assert crowd.num_moved() == 0


async def test_case_9_a_stopping_api_process_sends_its_clients_on(fleet, oracle):
    leaving = fleet.start_api(TRAMONTANE_GRACEFUL_TIMEOUT_S="3")  # streams get two seconds less
    await eventually(lambda: is_ready(leaving.port), "the API process is ready")
    async with Crowd(fleet, oracle, ports=[leaving.port], max_tokens=200) as crowd:
        await crowd.reach(10)
        crowd.ports[:] = fleet.ports[:1]
        leaving.terminate()
        await crowd.until(lambda: not is_ready(leaving.port))
        assert await exit_status(leaving) == 0
        await crowd.finish()
    assert crowd.num_resumed() == len(crowd.streams)
    assert not any(s.num_breaks for s in crowd.streams), "streams end cleanly, with their last id"
    assert crowd.num_moved() == 0


async def test_a_rolling_restart_of_everything_fails_no_request(start_fleet, oracle):
    """Long streams are open and short requests come all the while."""
    fleet = start_fleet(
        apis=2,
        workers=2,
        TRAMONTANE_LEASE_S=str(LONG_LEASE_S),
        TRAMONTANE_DRAIN_S="0.5",
        TRAMONTANE_GRACEFUL_TIMEOUT_S="3",
    )
    ports = fleet.ports
    short: list[Stream] = []
    async with Crowd(fleet, oracle, 50, ports=ports, max_tokens=600) as crowd:
        await crowd.reach(5)
        done = asyncio.Event()
        asking = [asyncio.create_task(keep_asking(ports, n, short, done)) for n in range(10)]
        await roll(fleet, ports)
        done.set()
        await asyncio.gather(*asking)
        await crowd.finish()
    check(short, oracle)
    streams = [*crowd.streams, *short]
    assert not any(s.num_breaks for s in streams)
    assert {r.error["code"] for s in streams for r in s.refusals} <= {"draining"}
    assert len(short) >= 20
    assert crowd.num_moved() == 50


async def roll(fleet, ports):
    """Replace each process: its successor first, then SIGTERM, as a platform does it."""
    for old in list(fleet.workers):
        new = fleet.start_worker()
        await eventually(partial(serves, fleet, new), "the new worker serves")
        old.terminate()
        assert await exit_status(old) == 0
    for old in list(fleet.apis):
        new = fleet.start_api()
        await eventually(partial(is_ready, new.port), "the new API process serves")
        ports[ports.index(old.port)] = new.port
        old.terminate()
        assert await exit_status(old) == 0


def serves(fleet, worker):
    return worker.pid in fleet.heartbeats()


async def keep_asking(ports, number, streams, done):
    while not done.is_set():
        stream = Stream(ports, question(1000 + len(streams), 20), first=number)
        streams.append(stream)
        await stream.run()
