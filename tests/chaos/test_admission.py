"""Cases 14, 23 and 24: the same question twice, a tenant that floods, deadlines."""

import asyncio
import contextlib
import hashlib
import json
import time

import pytest

from tests.chaos.client import CHAT, Refused, Stream, call, request
from tests.chaos.crowd import IS_FULL, question
from tests.chaos.fleet import eventually
from tests.chaos.verdict import check
from workers import contract, keys

ASYNC = {"Prefer": "respond-async"}


async def ask_in_parallel(fleet, count, body, headers):
    """The same request so many times at once, at all API processes: job ids and answers."""

    async def ask(number):
        answer = await request(fleet.ports[number % 2], "POST", CHAT, body, headers)
        with contextlib.closing(answer):
            return answer.status, answer.headers.get("x-job-id"), json.loads(await answer.body())

    return await asyncio.gather(*map(ask, range(count)))


async def test_case_14_one_key_twenty_times_is_one_job(fleet, oracle):
    body = question(14, 40)
    answers = await ask_in_parallel(fleet, 20, body, {"Idempotency-Key": "case-14"})
    assert [status for status, _, _ in answers] == [200] * 20
    (job_id,) = {job_id for _, job_id, _ in answers}
    assert {a["choices"][0]["message"]["content"] for _, _, a in answers} == {oracle.answer(body)}
    assert len({json.dumps(answer) for _, _, answer in answers}) == 1
    assert fleet.attempts(job_id) == 1
    with pytest.raises(Refused) as caught:
        await call(fleet.ports[0], "POST", CHAT, question(15, 40), {"Idempotency-Key": "case-14"})
    assert caught.value.status in (409, 422)


async def test_case_14_twenty_streams_of_one_key_are_one_job(fleet, oracle):
    headers = {"Idempotency-Key": "case-14-streams"}
    streams = [Stream(fleet.ports, question(14), first=n, headers=headers) for n in range(20)]
    await asyncio.gather(*(stream.run() for stream in streams))
    check(streams, oracle)
    assert len({stream.job_id for stream in streams}) == 1
    assert fleet.attempts(streams[0].job_id) == 1


async def test_case_14_who_asks_again_after_a_crash_gets_the_same_job(fleet, oracle):
    """Each client loses the API process before it has heard its job's name."""
    with fleet.client() as client:
        before = set(client.keys("job:*"))
    streams = [
        Stream(fleet.ports, question(n), headers={"Idempotency-Key": f"crash-{n}"})
        for n in range(100)
    ]
    tasks = [asyncio.create_task(stream.run()) for stream in streams]
    await eventually(lambda: fleet.num_unfinished() >= 20, "some jobs are there")
    fleet.apis[0].kill_tree()
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    check(streams, oracle)
    with fleet.client() as client:
        assert len(set(client.keys("job:*")) - before) == 100
    assert sum(stream.num_connections > 1 for stream in streams) >= 50


SIZE = 1000 if IS_FULL else 200
TENANTS = ("flood", "short")


def key(name):
    return {"Authorization": f"Bearer sk-{name}"}


async def hand_in(fleet, count, headers, max_tokens=100):
    async def one(seed):
        body = question(seed, max_tokens)
        return (await call(fleet.ports[0], "POST", CHAT, body, headers | ASYNC))["id"]

    ids = []
    for first in range(0, count, 50):
        ids += await asyncio.gather(*map(one, range(first, min(first + 50, count))))
    return ids


def waited_ms(fleet, job_id):
    with fleet.client() as client:
        queued, started = client.hmget(keys.job_key(job_id), "queued_ms", "started_ms")
    return int(started) - int(queued)


@pytest.fixture
def busy_fleet(start_fleet, tmp_path):
    """Two tenants, and an engine that takes a second for eight jobs."""
    file = tmp_path / "keys.toml"
    digests = {name: hashlib.sha256(f"sk-{name}".encode()).hexdigest() for name in TENANTS}
    file.write_text(
        "".join(f'[[keys]]\ntenant = "{n}"\nhash = "sha256:{d}"\n' for n, d in digests.items())
    )
    return start_fleet(
        SCRIPTED_MAX_SEQS="8",
        SCRIPTED_STEP_MS="10",
        TRAMONTANE_MAX_SEQS="8",
        TRAMONTANE_API_KEYS_FILE=str(file),
    )


async def test_case_23_a_flood_of_one_tenant_does_not_drown_another(busy_fleet):
    await hand_in(busy_fleet, SIZE, key("flood"))
    began_s = time.monotonic()
    answer = await call(busy_fleet.ports[0], "POST", CHAT, question(1, 5), key("short"))
    assert time.monotonic() - began_s < 8
    assert waited_ms(busy_fleet, answer["id"]) < 5000, "one fair turn"
    assert busy_fleet.num_unfinished() > SIZE // 2, "the flood has not passed"


async def test_case_23_interactive_goes_before_batch(busy_fleet):
    """Batch jobs that hold the whole engine for long give way."""
    batch = key("flood") | {"x-priority": "batch"}
    await hand_in(busy_fleet, SIZE // 2, batch, max_tokens=2000)
    await eventually(lambda: busy_fleet.num_running() >= 8, "they have every place")
    answer = await call(busy_fleet.ports[0], "POST", CHAT, question(1, 5), key("short"))
    assert waited_ms(busy_fleet, answer["id"]) < 5000
    # The answer is there before the worker has given its job up.
    await eventually(lambda: busy_fleet.num_unfinished() == SIZE // 2, "no batch job has ended")


async def test_case_23_batch_is_not_starved_for_ever(busy_fleet):
    """Its head start is minutes, so a job is made older in Redis."""
    fleet = busy_fleet
    *_, old = await hand_in(fleet, 30, key("flood") | {"x-priority": "batch"})
    urgent = await hand_in(fleet, 60, key("short") | {"x-priority": "interactive"})
    age_ms = 3_600_000
    queue = keys.queue_key((await call(fleet.ports[0], "GET", "/ready"))["models"][0]["id"])
    with fleet.client() as client:
        assert client.zscore(f"{queue}:class:batch", old), "it waits still"
        for waiting in (f"{queue}:class:batch", f"{queue}:wait:batch:flood"):
            assert client.zincrby(waiting, -age_ms, old) > 0

    def is_started(job_id):
        with fleet.client() as client:
            return client.hget(keys.job_key(job_id), "started_ms")

    await eventually(lambda: is_started(old), "the old one has its turn", 20)
    assert not all(map(is_started, urgent))


async def test_case_24_a_deadline_that_has_passed_is_refused_at_once(fleet):
    for headers in ({"x-deadline-ms": "0"}, {"x-deadline-ms": "-5"}, {"Cancel-After": "0"}):
        with pytest.raises(Refused) as caught:
            await call(fleet.ports[0], "POST", CHAT, question(1), headers)
        assert (caught.value.status, caught.value.error["code"]) == (408, "deadline_exceeded")
        assert caught.value.headers["x-should-retry"] == "false"
    assert fleet.num_unfinished() == 0


async def test_case_24_a_deadline_that_passes_in_the_queue_costs_no_token(start_fleet):
    fleet = start_fleet(SCRIPTED_MAX_SEQS="2", TRAMONTANE_MAX_SEQS="2", SCRIPTED_STEP_MS="50")
    await hand_in(fleet, 6, {}, max_tokens=200)
    stream = Stream(fleet.ports, question(1, 50), headers={"x-deadline-ms": "1500"})
    try:
        await asyncio.wait_for(stream.run(), 20)
        (error,) = stream.errors()
    except Refused as refused:
        error = refused.error
    assert error["code"] == "deadline_exceeded"
    if stream.job_id:
        events = fleet.log_of(stream.job_id)
        assert not any(isinstance(event, contract.Tokens) for event in events)


async def test_case_24_a_deadline_that_passes_while_it_runs_ends_it(fleet):
    stream = Stream(fleet.ports, question(1, 2000), headers={"x-deadline-ms": "1200"})
    began_s = time.monotonic()
    await asyncio.wait_for(stream.run(), 30)
    assert [error["code"] for error in stream.errors()] == ["deadline_exceeded"]
    assert stream.num_texts > 5
    assert time.monotonic() - began_s < 6
    await eventually(lambda: fleet.num_running() == 0, "the sequence is freed")
