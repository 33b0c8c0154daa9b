"""The core cases again with the built-in model, and case 20: a KV cache that is too small."""

import asyncio

import pytest

from tests.chaos.client import CHAT, Refused, call
from tests.chaos.crowd import IS_FULL, Crowd, question
from tests.chaos.fleet import eventually, fleet_of
from tests.chaos.verdict import Recorded

NUM_STREAMS = 100 if IS_FULL else 16
NUM_TOKENS = 400 if IS_FULL else 150
REAL = {
    "TRAMONTANE_ENGINE": "engine.engine:load_engine",
    "TRAMONTANE_MAX_SEQS": "32",
    "TRAMONTANE_LEASE_S": "2",
    "TRAMONTANE_DRAIN_S": "0.3",
}
TOPICS = ("the wind", "a fox", "the sea", "Paris", "a queue", "bread", "the moon", "Marseille")


def ask(number, max_tokens=NUM_TOKENS):
    """Half of the questions are greedy, half draw by their seed."""
    content = f"Tell me a long story about {TOPICS[number % len(TOPICS)]}."
    return question(
        number,
        max_tokens,
        messages=[{"role": "user", "content": content}],
        temperature=0.9 * (number % 2),
    )


QUESTIONS = [ask(number) for number in range(NUM_STREAMS)]


@pytest.fixture(scope="module")
def _real_fleet(proxies):
    with fleet_of(proxies, apis=2, workers=2, **REAL) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def _recorded():
    """One undisturbed run for all tests; filled by the first that needs it."""
    return {}


@pytest.fixture
async def fleet(_real_fleet):
    _real_fleet.heal()
    return _real_fleet


@pytest.fixture
async def truth(fleet, _recorded):
    if not _recorded:
        _recorded["truth"] = await record(fleet, QUESTIONS)
    return _recorded["truth"]


class Anything:
    """Judges no text: the first run is the measure of the others."""

    def __init__(self, streams):
        self.streams = streams

    def answer(self, body, choice=0):
        return next(s.text(choice) for s in self.streams if s.body == body)


async def record(fleet, questions):
    async with Crowd(fleet, Anything([]), questions=questions) as crowd:
        crowd.oracle = Anything(crowd.streams)
        await crowd.finish()
    assert len({s.text() for s in crowd.streams}) > 1
    return Recorded(crowd.streams)


async def test_case_1_a_killed_worker_costs_no_token(fleet, truth):
    async with Crowd(fleet, truth, questions=QUESTIONS) as crowd:
        await crowd.reach(10)
        (await crowd.busiest()).kill()
        await crowd.finish()
    assert crowd.num_moved() >= 1
    assert crowd.num_resumed() == 0


async def test_case_2_a_killed_api_process_costs_no_token(fleet, truth):
    async with Crowd(fleet, truth, questions=QUESTIONS) as crowd:
        await crowd.reach(10)
        fleet.apis[0].kill_tree()
        await crowd.finish()
    assert crowd.num_resumed() >= NUM_STREAMS // 2
    assert crowd.num_moved() == 0


async def test_case_3_api_and_worker_die_together(fleet, truth):
    async with Crowd(fleet, truth, questions=QUESTIONS) as crowd:
        await crowd.reach(10)
        (await crowd.busiest()).kill_tree()
        fleet.apis[1].kill_tree()
        await crowd.finish()
    assert crowd.num_moved() >= 1
    assert crowd.num_resumed() >= NUM_STREAMS // 2


async def test_case_8_a_stopping_worker_hands_its_jobs_over(fleet, truth):
    async with Crowd(fleet, truth, questions=QUESTIONS) as crowd:
        await crowd.reach(10)
        old = await crowd.busiest()
        old.terminate()
        assert await asyncio.to_thread(old.process.wait, 30) == 0
        await crowd.finish()
    assert crowd.num_moved() >= 1
    assert crowd.num_resumed() == 0


async def test_case_20_an_exhausted_kv_cache_preempts_and_loses_nothing(fleet, start_fleet):
    questions = [ask(n, 400 if IS_FULL else 60) for n in range(64 if IS_FULL else 24)]
    truth = await record(fleet, questions)
    small = start_fleet(**{**REAL, "TRAMONTANE_KV_CACHE_MB": "1", "TRAMONTANE_MAX_SEQS": "64"})
    async with Crowd(small, truth, questions=questions) as crowd:
        await crowd.finish()
        (beat,) = small.heartbeats().values()
        with pytest.raises(Refused) as caught:  # more than the whole cache holds
            await call(small.ports[0], "POST", CHAT, ask(0, 900))
    assert beat.num_preemptions > 0
    assert crowd.num_moved() == 0
    assert caught.value.status == 400
    assert caught.value.error["code"] == "context_length_exceeded"
    await eventually(lambda: small.num_running() == 0, "every sequence is freed")
