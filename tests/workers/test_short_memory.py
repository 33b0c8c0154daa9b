"""Workers whose engine runs out of memory: jobs go on at their offset, and none is blamed."""

import asyncio
from typing import Any

import pytest

from engine.config import EngineConfig
from engine.engine import load_engine
from engine.errors import LoadError
from engine.messages import SequenceRequest
from tests.workers.short_engine import FACTORY
from tests.workers.wire import check_log, has_tokens, ids_of, make_job
from workers import contract
from workers.contract import Done, Failed, Fence
from workers.prepare import prepare

EXACT: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "cpu_activations": "float",
    "max_seqs": 8,
}
NUM_JOBS, NUM_TOKENS = 4, 40


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """A file that is there once memory was short."""
    monkeypatch.setenv("SHORT_SEEN", str(tmp_path / "seen"))
    return tmp_path / "seen"


@pytest.fixture
def start(local_worker, seen, wire):
    """Starts a worker with the real engine in a process; a busy machine takes its time."""
    wire.patience_s = 100.0
    return lambda **settings: local_worker(
        has_process=True, factory=FACTORY, **EXACT, **settings
    ).start()


@pytest.fixture(scope="module")
def jobs():
    return [
        make_job(
            f"j{n}",
            seed=n,
            max_tokens=NUM_TOKENS,
            temperature=0.0 if n == 0 else 0.9,
            ignore_eos=True,
            prompts=[[5 + n] * (4 + 9 * n)],
        )
        for n in range(NUM_JOBS)
    ]


@pytest.fixture(scope="module")
def expected(jobs, model_files, text):
    """What an engine makes of each that has all memory, one after the other."""
    engine = load_engine(model_files, EngineConfig(**EXACT))
    made: dict[str, list[int]] = {}
    for job in jobs:
        (plan,) = prepare(job, text, engine.info)
        engine.add(SequenceRequest(id=job.id, prompt_ids=plan.prompt_ids, params=plan.params))
        ids = made[job.id] = []
        while engine.has_work():
            ids += [id_ for output in engine.step() for id_ in output.token_ids]
    assert {len(ids) for ids in made.values()} == {NUM_TOKENS}
    return made


async def check_all(wire, jobs, expected) -> int:
    """Every log is the undisturbed one, and no job was blamed. Returns the fences."""
    num_fences = 0
    for job in jobs:
        events = await wire.finished(job.id)
        check_log(events)
        assert isinstance(events[-1], Done)
        assert ids_of(events) == expected[job.id]
        num_fences += sum(isinstance(event, Fence) for event in events)
        key = contract.job_key(job.id)
        await wire.until_true(lambda key=key: wire.client.hexists(key, "outcome"))
        assert await wire.client.hget(key, "crashes") is None
    assert await wire.client.zcard("dead") == 0
    return num_fences


async def start_all(wire, jobs, num_tokens: int = 0) -> None:
    for job in jobs:
        await wire.enqueue(job)
    for job in jobs:
        await wire.until(has_tokens(num_tokens), job.id)


@pytest.mark.parametrize(
    ("orders", "settings"),
    [
        ({"SHORT_STEPS": "1,2,3,11,12,13,30"}, {}),
        ({"SHORT_ABOVE": "1"}, {"prefix_cache_n": 0}),
    ],
    ids=["now and then", "never but one token, without prefix cache"],
)
async def test_steps_that_do_not_fit_change_no_token_and_cost_no_attempt(
    start, wire, jobs, expected, seen, monkeypatch, orders, settings
):
    for name, value in orders.items():
        monkeypatch.setenv(name, value)
    start(**settings)
    await start_all(wire, jobs)
    assert await check_all(wire, jobs, expected) == 0
    assert seen.exists()


async def test_an_engine_without_memory_is_started_again_and_its_jobs_go_on_at_their_offset(
    start, wire, jobs, expected, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("SHORT_FILE", str(tmp_path / "short"))
    worker = start(max_num_batched_tokens=16)
    await start_all(wire, jobs, 3)
    (tmp_path / "short").touch()
    await wire.until_true(lambda: "again, with steps of 8 tokens" in caplog.text, "a restart")
    (tmp_path / "short").unlink()
    assert await check_all(wire, jobs, expected) >= 1
    assert not worker.task.done()
    assert "Not even a step of one token fits the memory of cpu" in caplog.text


async def test_a_worker_that_has_no_memory_at_all_leaves_its_jobs_to_others_and_says_what_to_do(
    start, wire, jobs, expected, tmp_path, monkeypatch
):
    monkeypatch.setenv("SHORT_FILE", str(tmp_path / "short"))
    worker = start(max_num_batched_tokens=8)
    await start_all(wire, jobs, 3)
    (tmp_path / "short").touch()
    with pytest.raises(LoadError, match=r"^Not even a step of one token .* lower --pa-gpu-mem-us"):
        await asyncio.wait_for(worker.task, wire.patience_s)
    assert not await wire.client.zrange(contract.leases_key(wire.queue), 0, -1)
    monkeypatch.delenv("SHORT_FILE")
    start(name="w2")
    assert await check_all(wire, jobs, expected) >= NUM_JOBS


async def test_a_job_that_never_fits_ends_in_words_and_its_neighbours_lose_nothing(
    start, wire, jobs, expected, monkeypatch
):
    monkeypatch.setenv("SHORT_LOGPROBS", "3")
    worker = start()
    await start_all(wire, jobs)
    await wire.enqueue(make_job("greedy", logprobs=3))
    events = await wire.finished("greedy")
    check_log(events)
    assert isinstance(events[-1], Failed)
    assert events[-1].code == "out_of_memory"
    assert "ask for less beside its text" in events[-1].message
    assert await check_all(wire, jobs, expected) == 0
    assert not worker.task.done()
