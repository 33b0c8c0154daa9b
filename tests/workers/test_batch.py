"""Batch jobs live in idle capacity: they yield at once, at their offset, and do not come back."""

import pytest

from tests.workers.wire import (
    QUEUE,
    check_log,
    has_tokens,
    ids_of,
    make_job,
    num_tokens,
    scripted_ids,
)
from workers.contract import Done, Fence, lease_key


def batch_job(name: str, **changes):
    return make_job(name, **{"service_class": "batch", "max_tokens": 120, **changes})


@pytest.fixture
async def full(local_worker, wire):
    """A worker whose two places are taken by batch jobs, the third waiting."""
    worker = local_worker(max_seqs=2, step_s=0.005)
    for name in ("b0", "b1", "b2"):
        await wire.enqueue(batch_job(name))
    worker.start()
    await wire.until(has_tokens(3), "b0")
    await wire.until(has_tokens(3), "b1")
    return worker


async def test_they_take_the_engine_s_places_and_do_not_look_ahead(full, wire):
    assert sorted(full.worker.tasks) == ["b0", "b1"]
    assert await wire.client.exists(lease_key("b2")) == 0


async def test_the_latest_yields_to_an_urgent_job_within_a_step_or_two(full, wire):
    before = num_tokens(await wire.events("b1"))
    await wire.enqueue(make_job("urgent", max_tokens=40, service_class="interactive"))
    await wire.until(has_tokens(1), "urgent")
    assert full.engine.stats.running == 2
    assert full.engine.stats.waiting == 0
    await wire.until_true(lambda: sorted(full.worker.tasks) == ["b0", "urgent"])
    assert num_tokens(await wire.events("b1")) - before < 12


async def test_each_urgent_job_moves_one_and_all_ends_well(full, wire, model_files):
    urgent = [make_job(f"u{n}", max_tokens=30, service_class="interactive") for n in range(4)]
    for job in urgent:
        await wire.enqueue(job)
    for job in urgent:
        assert isinstance((await wire.finished(job.id))[-1], Done)
    for name in ("b0", "b1", "b2"):
        events = await wire.finished(name)
        check_log(events)
        assert ids_of(events) == scripted_ids(model_files, batch_job(name))
    fences = [e for n in ("b0", "b1") for e in await wire.events(n) if isinstance(e, Fence)]
    assert len(fences) == 2
    await wire.until_gone("arq:retry:*")


async def test_a_batch_job_that_waited_its_time_need_not_yield(local_worker, wire):
    worker = local_worker(max_seqs=1, step_s=0.005)
    await wire.enqueue(batch_job("old"))
    for key in (f"{QUEUE}:class:batch", f"{QUEUE}:wait:batch:"):
        await wire.client.zadd(key, {"old": 1})
    await wire.enqueue(make_job("first", max_tokens=2))
    worker.start()
    await wire.until(has_tokens(3), "old")
    await wire.enqueue(make_job("urgent", service_class="interactive"))
    await wire.finished("urgent")
    assert not [e for e in await wire.events("old") if isinstance(e, Fence)]


class TestAFullCache:
    @pytest.fixture
    async def tight(self, local_worker, wire):
        """An engine with eight places and memory for two sequences."""
        worker = local_worker(max_seqs=8, step_s=0.005)
        worker.engine.engine._max_seqs = 2
        for name in ("b0", "b1"):
            await wire.enqueue(batch_job(name, max_tokens=3000))
        worker.start()
        await wire.until(has_tokens(3), "b1")
        return worker

    async def test_a_batch_job_gives_way_to_what_does_not_get_in(self, tight, wire):
        await wire.enqueue(make_job("urgent", max_tokens=200))
        await wire.until(has_tokens(1), "urgent")
        assert sorted(tight.worker.tasks) == ["b0", "urgent"]

    async def test_it_does_not_come_back_before_something_has_ended(self, tight, wire):
        await wire.enqueue(make_job("urgent", max_tokens=150))
        await wire.until(has_tokens(120), "urgent")
        assert await wire.client.exists(lease_key("b1")) == 0
        assert len([e for e in await wire.events("b1") if isinstance(e, Fence)]) == 0
        await wire.finished("urgent")
        await wire.until(lambda events: any(isinstance(e, Fence) for e in events), "b1")

    async def test_batch_jobs_among_themselves_just_wait(self, tight, wire):
        await wire.enqueue(batch_job("b2"))
        await wire.until_true(lambda: tight.engine.stats.waiting == 1)
        before = num_tokens(await wire.events("b0"))
        await wire.until(has_tokens(before + 30), "b0")
        assert {"b0", "b1", "b2"} == set(tight.worker.tasks)
