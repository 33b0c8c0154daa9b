"""Cases 10, 11, 13 and 15: clients that leave, read slowly, come too early or ask again."""

import asyncio
import contextlib
import json
import time

import openai
import pytest

from tests.chaos.client import CHAT, Refused, Stream, call, request
from tests.chaos.crowd import Crowd, question
from tests.chaos.fleet import eventually
from tests.chaos.verdict import check
from workers import contract, keys


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "plain"])
async def test_case_10_clients_that_leave_free_their_sequences(fleet, stream):
    answers = await leave_when(
        fleet, 100, lambda: fleet.num_running() == 100, stream=stream, max_tokens=2000
    )
    left_s = time.monotonic()
    await eventually(lambda: fleet.num_running() == 0, "every sequence is freed")
    assert time.monotonic() - left_s < 2
    await eventually(lambda: fleet.num_unfinished() == 0, "no job is left")
    with fleet.client() as client:
        ids = [key.decode().removeprefix("log:") for key in client.keys("log:*")]
    ends = [fleet.log_of(job_id)[-1] for job_id in ids]
    cancelled = [e for e in ends if isinstance(e, contract.Failed) and e.code == "cancelled"]
    assert len(cancelled) >= answers == 100


async def test_case_10_clients_that_leave_before_the_first_token(start_fleet):
    """The step is slow, as a long prompt makes it: they leave while it runs, or while they wait."""
    fleet = start_fleet(SCRIPTED_STEP_MS="700", SCRIPTED_MAX_SEQS="10")
    await leave_when(fleet, 20, lambda: fleet.num_unfinished() == 20, max_tokens=50)
    await eventually(lambda: fleet.num_running() == 0, "every sequence is freed")
    await eventually(lambda: fleet.num_unfinished() == 0, "no job is left")


async def test_case_10_background_jobs_run_on_when_their_client_leaves(fleet, oracle):
    bodies = [question(number, 60, stream=bool(number % 2)) for number in range(100)]
    ids = await asyncio.gather(*(hand_in(fleet, n, body) for n, body in enumerate(bodies)))
    assert fleet.num_unfinished() > 0
    await eventually(lambda: fleet.num_unfinished() == 0, "all have ended")
    streams = [Stream(fleet.ports, body, first=n) for n, body in enumerate(bodies)]
    for stream, job_id in zip(streams, ids, strict=True):
        stream.job_id = job_id
    await asyncio.gather(*(stream.run() for stream in streams))
    check(streams, oracle)


async def hand_in(fleet, number, body):
    """A job whose client leaves at once. Its id."""
    port = fleet.ports[number % 2]
    answer = await request(port, "POST", CHAT, body, {"Prefer": "respond-async"})
    with contextlib.closing(answer):
        assert answer.status == 202
        assert answer.headers["location"] == f"/v1/jobs/{answer.headers['x-job-id']}"
        return answer.headers["x-job-id"]


async def leave_when(fleet, count, condition, **fields):
    """Ask `count` questions, close all connections at once when `condition` is true."""

    async def ask(number):
        port = fleet.ports[number % len(fleet.ports)]
        answer = await request(port, "POST", CHAT, question(number, **fields))
        try:
            await answer.body()
        finally:
            answer.close()

    tasks = [asyncio.create_task(ask(number)) for number in range(count)]
    await eventually(condition, "all have come in")
    for task in tasks:
        task.cancel()
    return sum(
        isinstance(e, asyncio.CancelledError)
        for e in await asyncio.gather(*tasks, return_exceptions=True)
    )


async def test_case_11_a_slow_reader_slows_nobody_and_gets_all(start_fleet, oracle):
    fleet = start_fleet(SCRIPTED_STEP_MS="2")
    slow = Stream(fleet.ports, question(1, 800, n=32))  # megabytes
    before_mb = fleet.apis[0].rss_mb()
    is_patient = asyncio.Event()
    reading = asyncio.create_task(read_slowly(slow, is_patient))
    await eventually(lambda: fleet.num_running() == 32, "the slow client's job runs")
    async with Crowd(fleet, oracle, 20, max_tokens=200) as crowd:
        await crowd.finish()
    await eventually(lambda: fleet.num_unfinished() == 0, "the engine waits for no reader")
    assert len(slow.frames) < 32 * 800 / 4, "the client was slow"
    assert fleet.apis[0].rss_mb() - before_mb < 60
    is_patient.set()
    await asyncio.wait_for(reading, 60)
    check([slow], oracle)


async def read_slowly(stream, is_patient):
    """A few kilobytes a second until `is_patient`; then as fast as it goes."""
    answer = await request(stream.ports[0], "POST", CHAT, stream.body, buffer_bytes=4096)
    with contextlib.closing(answer):
        stream.job_id = answer.headers["x-job-id"]
        async for frame in answer.frames():
            stream.frames.append(frame)
            if not is_patient.is_set():
                await asyncio.sleep(0.05)


async def test_case_13_without_a_worker_requests_wait_and_hear_pings(fleet, oracle):
    for node in fleet.workers:
        node.kill_tree()
    began_s = time.monotonic()
    async with Crowd(fleet, oracle, 100, max_tokens=20) as crowd:
        await crowd.until(lambda: all(s.job_id for s in crowd.streams), 10)
        assert time.monotonic() - began_s < 5  # the status comes after first_event_s at the latest
        await asyncio.sleep(2.0)
        assert fleet.num_unfinished() == 100
        fleet.start_worker()
        await crowd.finish()
    assert all(stream.num_comments >= 2 for stream in crowd.streams)
    assert crowd.num_resumed() == 0


async def test_case_13_a_request_that_nobody_takes_in_time_is_told_so(start_fleet):
    fleet = start_fleet(TRAMONTANE_MAX_QUEUE_WAIT_S="2")
    fleet.workers[0].kill_tree()
    port = fleet.ports[0]
    began_s = time.monotonic()
    streams = [Stream(fleet.ports, question(n, 5)) for n in range(20)]
    await asyncio.gather(*(stream.run() for stream in streams))
    with pytest.raises(Refused) as caught:
        await call(port, "POST", CHAT, question(1, 5))
    assert time.monotonic() - began_s < 20
    for stream in streams:
        assert [error["code"] for error in stream.errors()] == ["no_workers"]
        assert stream.frames[-1].data == "[DONE]"
    assert (caught.value.status, caught.value.error["code"]) == (503, "no_workers")
    assert 1 <= int(caught.value.headers["retry-after"]) <= 120
    assert fleet.num_unfinished() == 0


ERROR_SEED = 666


async def test_case_15_openai_retries_a_storm_of_500s_three_times_at_most(start_fleet, oracle):
    fleet = start_fleet(SCRIPTED_ERROR_SEED=str(ERROR_SEED))
    client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{fleet.ports[0]}/v1", api_key="none")
    async with client, Crowd(fleet, oracle, 20) as crowd:
        errors = await asyncio.gather(
            *(client.chat.completions.create(**openai_body(ERROR_SEED)) for _ in range(20)),
            return_exceptions=True,
        )
        await crowd.finish()
    assert all(isinstance(error, openai.InternalServerError) for error in errors)
    with fleet.client() as redis:
        jobs = redis.keys("job:*")
    assert 20 <= len(jobs) - len(crowd.streams) <= 3 * 20


async def test_case_15_retries_with_a_key_make_no_second_job(start_fleet):
    fleet = start_fleet(SCRIPTED_ERROR_SEED=str(ERROR_SEED))
    client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{fleet.ports[0]}/v1", api_key="none")
    async with client:
        errors = await asyncio.gather(
            *(
                client.chat.completions.create(
                    **openai_body(ERROR_SEED), extra_headers={"Idempotency-Key": f"key-{n}"}
                )
                for n in range(10)
            ),
            return_exceptions=True,
        )
    assert all(isinstance(error, openai.InternalServerError) for error in errors)
    with fleet.client() as redis:
        assert len(redis.keys("job:*")) == 10


def openai_body(seed, max_tokens=5):
    body = question(seed, max_tokens)
    return body | {"extra_body": {"ignore_eos": body.pop("ignore_eos")}}


async def test_a_client_can_read_again_from_any_event(fleet, oracle):
    async with Crowd(fleet, oracle, 1, n=3) as crowd:
        await crowd.finish()
    whole = crowd.streams[0]
    for last in (-1, 0, whole.last_id // 2, whole.last_id - 1):
        again = Stream(fleet.ports, whole.body, first=last)
        again.job_id, again.last_id = whole.job_id, last
        await again.follow_once()
        expected = [f.data for f in whole.frames if f.event_id is None or f.event_id > last]
        if last >= 0:
            expected = [d for d in expected if '"role"' not in d]
        assert [f.data for f in again.frames] == expected


async def places(fleet, job_id, text):
    answer = await request(fleet.ports[0], "GET", f"/v1/jobs/{job_id}/events?starting_after={text}")
    with contextlib.closing(answer):
        body = await answer.body()
    return answer.status, json.loads(body) if answer.status >= 400 else body


async def test_starting_after_the_end_below_zero_and_after_expiry(fleet, oracle):
    async with Crowd(fleet, oracle, 1, max_tokens=5) as crowd:
        await crowd.finish()
    stream = crowd.streams[0]
    assert await places(fleet, stream.job_id, str(stream.last_id)) == (204, b"")
    for bad in ("99999", "-1", "1.5", "x", "9" * 40):
        status, body = await places(fleet, stream.job_id, bad)
        assert (status, body["error"]["param"]) == (400, "starting_after")
    with fleet.client() as client:  # as their expiry would
        client.delete(keys.job_key(stream.job_id), keys.log_key(stream.job_id))
    status, body = await places(fleet, stream.job_id, "1")
    assert (status, body["error"]["code"]) == (404, "job_not_found")


async def test_starting_after_the_end_of_a_running_job_waits(fleet, oracle):
    async with Crowd(fleet, oracle, 1, max_tokens=60) as crowd:
        await crowd.reach(5)
        ahead = Stream(fleet.ports, crowd.streams[0].body)
        ahead.job_id, ahead.last_id = crowd.streams[0].job_id, 40
        await ahead.follow_once()
        await crowd.finish()
    ids = [f.event_id for f in crowd.streams[0].frames if f.event_id is not None]
    assert [f.event_id for f in ahead.frames] == [i for i in ids if i > 40]
