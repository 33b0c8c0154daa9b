"""re_isq with real worker processes: no stream loses or repeats a token, whatever is killed."""

import asyncio
import signal

import psutil
import pytest

from tests.workers.wire import Wire, check_log, has_tokens, ids_of, make_job, scripted_ids
from workers import contract

KEY = contract.isq_key("m")
NUM_JOBS, NUM_TOKENS = 16, 150
LOADS = {"SCRIPTED_REQUANTIZE_MS": "400", "TRAMONTANE_HEARTBEAT_S": "0.2"}


@pytest.fixture
async def jobs(wire):
    return [make_job(f"j{n}", seed=n, max_tokens=NUM_TOKENS) for n in range(NUM_JOBS)]


async def start_all(wire: Wire, jobs) -> None:
    for job in jobs:
        await wire.enqueue(job)
    for job in jobs:
        await wire.until(has_tokens(5), job.id)


async def check_all(wire: Wire, jobs, model_files) -> None:
    for job in jobs:
        events = await wire.finished(job.id)
        check_log(events)
        assert ids_of(events) == scripted_ids(model_files, job)


async def begin(wire: Wire, isq: str, change: str = "c1") -> None:
    args = [change, "m", isq, 60, 60_000]
    reply = await wire.script("isq_begin", [KEY, contract.re_isq_key(change)], args)
    assert reply == [b"begun", change.encode()]


async def look(wire: Wire, change: str = "c1") -> dict[str, bytes]:
    keys = [KEY, contract.re_isq_key(change)]
    _, *fields = await wire.script("isq_look", keys, ["m", 60])
    return {n.decode(): v for n, v in zip(fields[::2], fields[1::2], strict=True)}


async def ended(wire: Wire, change: str = "c1") -> dict[str, bytes]:
    async def is_over():
        return (await look(wire, change))["state"] != b"in_progress"

    await wire.until_true(is_over, f"the end of {change}")
    return await look(wire, change)


async def holder(wire: Wire) -> str:
    """The worker whose turn it is, as soon as it is somebody's."""

    async def has_holder():
        return await wire.client.get(contract.isq_turn_key("m"))

    await wire.until_true(has_holder, "a turn")
    name: bytes = await wire.client.get(contract.isq_turn_key("m"))
    return name.decode()


async def types(wire: Wire) -> set[str]:
    names = [name.decode() for name in await wire.client.zrange(contract.WORKERS_KEY, 0, -1)]
    beats = await wire.client.mget([contract.worker_key(name) for name in names])
    return {contract.decode_heartbeat(beat).isq for beat in beats if beat is not None}


async def test_two_workers_change_under_load(processes, wire, redis_url, jobs, model_files):
    processes.start_ready(redis_url, 2, TRAMONTANE_MAX_SEQS="10", **LOADS)
    await start_all(wire, jobs)
    await begin(wire, "Q8_0")
    change = await ended(wire)
    assert change["state"] == b"completed", processes.logs()
    assert await types(wire) == {"Q8_0"}
    await check_all(wire, jobs, model_files)
    processes.start_ready(redis_url, **LOADS)
    assert await types(wire) == {"Q8_0"}


async def test_a_worker_that_is_killed_in_its_turn_is_not_missed(
    processes, wire, redis_url, jobs, model_files
):
    workers = processes.start_ready(redis_url, 2, TRAMONTANE_MAX_SEQS="10", **LOADS)
    await start_all(wire, jobs)
    await begin(wire, "Q8_0")
    name = await holder(wire)
    (victim,) = [worker for worker in workers if f"-{worker.pid}-" in name]
    victim.kill()
    change = await ended(wire)
    assert change["state"] == b"completed", processes.logs()
    assert f"worker:{name}" not in change
    assert await types(wire) == {"Q8_0"}
    await check_all(wire, jobs, model_files)


async def test_an_engine_that_is_killed_in_its_turn_makes_all_go_back(
    processes, wire, redis_url, jobs, model_files
):
    workers = processes.start_ready(redis_url, 2, TRAMONTANE_MAX_SEQS="10", **LOADS)
    await start_all(wire, jobs)
    await begin(wire, "Q8_0")
    name = await holder(wire)
    (victim,) = [worker for worker in workers if f"-{worker.pid}-" in name]
    await asyncio.sleep(0.1)
    (engine,) = psutil.Process(victim.pid).children()
    engine.send_signal(signal.SIGKILL)
    change = await ended(wire)
    assert change["state"] == b"failed", processes.logs()
    said = f"Worker {name}: The engine died while it loaded the new weights. "
    assert change["error"].decode().startswith(said)
    assert await types(wire) == {""}
    await check_all(wire, jobs, model_files)
    assert [worker.poll() for worker in workers] == [None, None]


async def test_a_worker_that_is_told_to_stop_in_its_turn_hands_over_and_leaves(
    processes, wire, redis_url, jobs, model_files
):
    drain = {"TRAMONTANE_DRAIN_S": "0.1", **LOADS}
    workers = processes.start_ready(redis_url, 2, TRAMONTANE_MAX_SEQS="10", **drain)
    await start_all(wire, jobs)
    await begin(wire, "Q8_0")
    name = await holder(wire)
    (victim,) = [worker for worker in workers if f"-{worker.pid}-" in name]
    victim.terminate()
    assert await asyncio.to_thread(victim.wait, 10) == 0
    change = await ended(wire)
    assert change["state"] == b"completed", processes.logs()
    assert await types(wire) == {"Q8_0"}
    await check_all(wire, jobs, model_files)
