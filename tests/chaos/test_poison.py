"""Case 21, engines that hang, and workers with other weights: what must not be tried for ever."""

import asyncio

import pytest

from tests.chaos.client import CHAT, Refused, Stream, call
from tests.chaos.crowd import Crowd, question
from tests.chaos.fleet import eventually
from workers import keys

POISON = 13


async def test_case_21_a_poison_job_becomes_a_dead_letter_and_its_neighbours_live(
    start_fleet, oracle
):
    fleet = start_fleet(apis=2, workers=2, SCRIPTED_CRASH_SEED=str(POISON))
    bodies = [question(1000 + number, 150) for number in range(100)]
    async with Crowd(fleet, oracle, questions=bodies) as crowd:
        await crowd.reach(5)
        with pytest.raises(Refused) as caught:
            await call(fleet.ports[0], "POST", CHAT, question(POISON))
        poison = Stream(fleet.ports, question(POISON))
        await asyncio.wait_for(poison.run(), 60)
        await crowd.finish()
    refused = caught.value
    assert (refused.status, refused.error["type"]) == (500, "server_error")
    assert refused.error["code"] == "engine_crashed"
    assert refused.headers["x-job-id"] in refused.error["message"]
    assert [error["code"] for error in poison.errors()] == ["engine_crashed"]
    for job_id in (refused.headers["x-job-id"], poison.job_id):
        assert fleet.attempts(job_id) <= 2 + 2, "two crashes, and those of its neighbour"
    letters = (await call(fleet.ports[1], "GET", "/admin/dead"))["data"]
    assert {letter["id"] for letter in letters} == {refused.headers["x-job-id"], poison.job_id}
    await eventually(lambda: fleet.num_unfinished() == 0, "the queue moved on")


async def test_case_21_a_dead_letter_that_is_retried_goes_on(start_fleet, oracle):
    fleet = start_fleet(SCRIPTED_CRASH_SEED=str(POISON))
    stream = Stream(fleet.ports, question(POISON, 20))
    await asyncio.wait_for(stream.run(), 60)
    assert stream.errors()
    fleet.workers[0].kill_tree()
    fleet.start_worker(SCRIPTED_CRASH_SEED="-1")  # the bug is mended
    # The old worker may have died before it could put the job among the dead.
    await eventually(lambda: is_dead(fleet, stream.job_id), "it is a dead letter")
    await call(fleet.ports[0], "POST", f"/admin/dead/{stream.job_id}/retry")
    again = Stream(fleet.ports, stream.body)
    again.job_id = stream.job_id
    await asyncio.wait_for(again.run(), 60)
    assert again.text() == oracle.answer(stream.body)
    assert (await call(fleet.ports[0], "GET", "/admin/dead"))["data"] == []


def is_dead(fleet, job_id):
    with fleet.client() as client:
        return client.zscore(keys.DEAD_KEY, job_id) is not None


@pytest.mark.parametrize("how", ["hung", "stopped"])
async def test_case_22_an_engine_that_hangs_loses_its_jobs(start_fleet, oracle, tmp_path, how):
    """A step that never ends, as of a hung device; a frozen engine process."""
    trap = tmp_path / "hang"
    fleet = start_fleet(apis=1, workers=2, SCRIPTED_HANG_FILE=str(trap), TRAMONTANE_STALL_S="2")
    async with Crowd(fleet, oracle) as crowd:
        await crowd.reach(10)
        victim = await crowd.busiest()
        if how == "hung":
            trap.touch()
            await eventually(lambda: not trap.exists(), "an engine fell into the trap")
        else:
            victim.engine().suspend()
        await crowd.finish()
    assert crowd.num_moved() >= 20
    assert crowd.num_resumed() == 0
    await eventually(lambda: fleet.num_ready() == 2, "both workers serve again", 60)


async def test_a_worker_with_other_weights_does_not_continue_a_text(start_fleet, oracle):
    fleet = start_fleet(apis=1, workers=1, TRAMONTANE_MAX_SEQS="30")
    (old,) = fleet.workers
    fleet.start_worker(SCRIPTED_FINGERPRINT="other")
    await eventually(lambda: fleet.num_ready() == 2, "both serve")
    async with Crowd(fleet, oracle, 40, max_tokens=300) as crowd:
        await crowd.reach(5)
        old_jobs = {stream.job_id for stream in crowd.streams if ran_on(fleet, stream, old)}
        assert 0 < len(old_jobs) < 40
        old.kill_tree()
        await asyncio.wait_for(asyncio.gather(*crowd._tasks), 60)
    for stream in crowd.streams:
        if stream.job_id in old_jobs:
            assert [error["code"] for error in stream.errors()] == ["model_changed"]
            assert oracle.answer(stream.body).startswith(stream.text())
        else:
            assert stream.text() == oracle.answer(stream.body)


def ran_on(fleet, stream, node):
    """Whether the worker holds the job: its lease has the worker's process id."""
    with fleet.client() as client:
        holder = client.get(keys.lease_key(stream.job_id)) or b""
    return f"-{node.pid}-".encode() in holder


async def test_a_job_that_sent_nothing_may_begin_again_on_other_weights(start_fleet, oracle):
    fleet = start_fleet(SCRIPTED_STEP_MS="5000")
    stream = Stream(fleet.ports, question(3, 10))
    running = asyncio.create_task(stream.run())
    await eventually(lambda: stream.job_id and fleet.log_of(stream.job_id), "the first step runs")
    fleet.workers[0].kill_tree()
    fleet.start_worker(SCRIPTED_FINGERPRINT="other", SCRIPTED_STEP_MS="10")
    await asyncio.wait_for(running, 60)
    assert not stream.errors()
    assert stream.text() == oracle.answer(stream.body)
    assert fleet.attempts(stream.job_id) == 2
