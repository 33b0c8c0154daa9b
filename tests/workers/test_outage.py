"""Redis is away while a worker generates: a bounded buffer, leases first, nothing lost."""

import asyncio

from tests.workers.wire import (
    Wire,
    check_log,
    has_tokens,
    ids_of,
    make_job,
    scripted_ids,
)
from workers.contract import Fence
from workers.redis_link import Scripts


async def test_the_engine_goes_on_until_the_buffer_is_full_and_is_not_taken_for_hung(
    redis_server, local_worker, monkeypatch, model_files
):
    monkeypatch.setenv("SCRIPTED_STEP_MS", "2")
    wire = Wire(redis_server.url)
    worker = local_worker(url=redis_server.url, has_process=True, stall_s=0.4, drain_s=0)
    worker.service.token_log._max_pending = 80
    worker.start()
    job = make_job(max_tokens=500)
    await wire.enqueue(job)
    await wire.until(has_tokens(3))
    engine = worker.engine.pid
    redis_server.stop()
    await wire.until_true(lambda: not worker.service.token_log.has_room)
    num_reports = worker.engine.num_reports
    await asyncio.sleep(1.0)  # far longer than an engine may be silent
    assert worker.engine.num_reports <= num_reports + 1
    assert worker.engine.pid == engine
    redis_server.start()
    events = await wire.finished()
    check_log(events)
    assert ids_of(events) == scripted_ids(model_files, job)
    assert not [event for event in events if isinstance(event, Fence)]
    await wire.client.aclose()


async def test_leases_are_renewed_before_the_first_token_is_written(
    redis_server, local_worker, monkeypatch, model_files
):
    wire = Wire(redis_server.url)
    worker = local_worker(url=redis_server.url, step_s=0.005, lease_s=0.6).start()
    job = make_job(max_tokens=400)
    await wire.enqueue(job)
    await wire.until(has_tokens(3))
    answered: list[str] = []
    run = Scripts.run

    async def remember(scripts, name, keys=(), args=()):
        reply = await run(scripts, name, keys, args)
        answered.append(name)
        return reply

    monkeypatch.setattr(Scripts, "run", remember)
    redis_server.stop()
    answered.clear()
    await asyncio.sleep(1)  # longer than the lease, and than the client tries by itself
    redis_server.start()
    events = await wire.finished()
    assert ids_of(events) == scripted_ids(model_files, job)
    assert "renew" in answered[: answered.index("step")]
    assert not worker.task.done()
    await wire.client.aclose()


async def test_what_is_another_attempt_s_by_then_is_not_written(redis_server, local_worker):
    wire = Wire(redis_server.url)
    worker = local_worker(url=redis_server.url, step_s=0.005).start()
    await wire.enqueue(make_job(max_tokens=3000))
    await wire.until(has_tokens(3))
    length = len(await wire.events())
    redis_server.stop()
    claim = worker.service.leases.claims["j"]
    claim.attempt, claim.owner = 0, "w1:0"  # as if Redis knew a later attempt
    await asyncio.sleep(1)  # longer than the client tries by itself; two hundred tokens
    redis_server.start()
    events = await wire.until(lambda events: any(isinstance(e, Fence) for e in events))
    (at,) = [number for number, event in enumerate(events) if isinstance(event, Fence)]
    assert at - length < 20
    await wire.client.aclose()
