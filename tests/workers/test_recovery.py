"""What a job's end settles, and what ends it: poison, other weights, deadlines, a hung engine."""

import os
import signal

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
from workers import contract
from workers.blame import PROBATION_TOKENS
from workers.contract import Delta, Done, Failed, Fence, Started, Tokens, encode
from workers.redis_link import Scripts
from workers.worker import MAX_TRIES


async def record(wire, job_id: str = "j") -> dict[str, str]:
    """The job's record, once its release has been noted there."""
    await wire.until_true(lambda: wire.client.hexists(contract.job_key(job_id), "outcome"))
    fields = await wire.client.hgetall(contract.job_key(job_id))
    return {name.decode(): value.decode("latin-1") for name, value in fields.items()}


class TestSettling:
    async def settled(self, wire, job) -> list[object]:
        """How the one job was released: how, result ttl in ms, tokens used, outcome."""
        await wire.enqueue(job)
        events = await wire.finished()
        check_log(events)
        assert (await record(wire))["outcome"]
        how, _, ttl_ms, used, outcome = self.releases[-1][2:]
        return [how, ttl_ms, used, outcome]

    @pytest.fixture(autouse=True)
    def spy(self, monkeypatch):
        """Remembers the arguments of every release."""
        self.releases: list[list[object]] = []
        insist = Scripts.insist

        async def remember(scripts, name, keys=(), args=()):
            if name == "release":
                self.releases.append(list(args))
            return await insist(scripts, name, keys, args)

        monkeypatch.setattr(Scripts, "insist", remember)

    async def test_a_done_job_paid_for_prompt_and_answer(self, local_worker, wire):
        local_worker(result_ttl_s=77).start()
        job = make_job(n=2, max_tokens=8)
        assert await self.settled(wire, job) == ["done", 77_000, 3 + 16, "done"]

    @pytest.mark.parametrize("code", ["engine_crashed", "too_many_attempts"])
    async def test_a_worker_that_dies_before_it_could_release_loses_no_dead_letter(
        self, local_worker, wire, code
    ):
        await wire.enqueue(make_job())
        log = [encode(Started(0, 3)), encode(Failed(1, code, ""))]
        await wire.client.rpush(contract.log_key("j"), *log)
        local_worker(dead_ttl_s=99).start()
        assert (await record(wire))["outcome"] == code
        assert self.releases[-1][2] == "dead"
        assert self.releases[-1][4] == 99_000
        assert await wire.client.zscore(contract.DEAD_KEY, "j") is not None

    async def test_a_job_says_how_long_its_answer_is_kept(self, local_worker, wire):
        local_worker(result_ttl_s=77).start()
        job = make_job(result_ttl_s=5000)
        assert (await self.settled(wire, job))[1] == 5_000_000
        for key in (contract.job_key("j"), contract.log_key("j")):
            assert 4900 < await wire.client.ttl(key) <= 5000

    async def test_what_was_refused_cost_nothing(self, local_worker, wire):
        local_worker().start()
        job = make_job(prompts=[[5] * 5000], result_ttl_s=5000)
        how, ttl_ms, used, outcome = await self.settled(wire, job)
        assert (how, ttl_ms, used) == ("done", 5_000_000, 0)
        assert outcome == "context_length_exceeded"

    async def test_an_end_that_was_not_settled_is_settled_by_the_next_worker(
        self, local_worker, wire
    ):
        job = make_job()
        await wire.enqueue(job)
        entries = [
            Started(0, 3),
            Tokens(1, (Delta(0, (8, 9), "x", "stop"),)),
            Done(2, contract.Usage(3, 2)),
        ]
        await wire.client.rpush("log:j", *map(encode, entries))
        local_worker().start()
        assert (await record(wire))["outcome"] == "done"
        assert self.releases[-1][5:] == [5, "done"]


class TestWeights:
    async def interrupted(self, wire, tokens: bool, **terms):
        """A job that an engine of other weights began."""
        job = make_job()
        await wire.enqueue(job, **terms)
        entries = [Started(0, 3), *([Tokens(1, (Delta(0, (8,), "x"),))] if tokens else [])]
        await wire.client.rpush("log:j", *map(encode, entries))
        await wire.client.hset(contract.job_key("j"), "fingerprint", "others")
        return job

    async def test_no_answer_is_continued_by_another_model(self, local_worker, wire):
        await self.interrupted(wire, tokens=True)
        local_worker().start()
        events = await wire.finished()
        check_log(events)
        assert events[-1].code == "model_changed"
        assert num_tokens(events) == 1

    async def test_a_line_of_a_batch_that_nobody_looked_at_begins_anew(
        self, local_worker, wire, model_files
    ):
        job = await self.interrupted(wire, tokens=True, is_line=True)
        local_worker().start()
        events = await wire.finished()
        assert isinstance(events[0], Fence)
        assert isinstance(events[-1], Done)
        assert [e.offset for e in events[1:3]] == [0, 1]
        assert ids_of(events) == scripted_ids(model_files, job)
        assert (await record(wire))["fingerprint"] != "others"

    async def test_a_line_that_somebody_looked_at_is_not_continued_either(self, local_worker, wire):
        await self.interrupted(wire, tokens=True, is_line=True)
        names = [contract.job_key("j"), contract.lease_key("j"), contract.log_key("j")]
        assert await wire.script("status", names, ["j"])
        local_worker().start()
        events = await wire.finished()
        assert events[-1].code == "model_changed"
        assert num_tokens(events) == 1

    async def test_who_still_writes_the_log_that_was_dropped_is_fenced(self, local_worker, wire):
        await self.interrupted(wire, tokens=True, is_line=True)
        old = [encode(Started(0, 3)), encode(Tokens(1, (Delta(0, (8,), "x"),)))]
        local_worker().start()
        logged = await wire.finished()
        for index in (1, 2, len(logged)):
            batch = contract.encode_batch([contract.Append("j", index, old[1])])
            before = contract.encode_previous({"j": old[index > 1]})
            _, (_, kind, _) = await wire.script("step", [], ["api:A", batch, before])
            assert kind == b"fenced"
        assert await wire.finished() == logged

    async def test_what_has_said_nothing_just_runs(self, local_worker, wire, model_files):
        job = await self.interrupted(wire, tokens=False)
        local_worker().start()
        events = await wire.finished()
        assert ids_of(events) == scripted_ids(model_files, job)


class TestDeadlines:
    async def test_a_job_past_its_deadline_is_not_even_tokenized(
        self, local_worker, wire, monkeypatch
    ):
        monkeypatch.setattr("workers.generate.prepare", lambda *_: 1 / 0)
        await wire.enqueue(make_job())
        await wire.client.hset(contract.job_key("j"), "deadline_ms", 1)
        local_worker().start()
        (event,) = await wire.finished()
        assert event.code == "deadline_exceeded"

    async def test_a_running_job_ends_with_its_time(self, local_worker, wire):
        worker = local_worker(step_s=0.005).start()
        await wire.enqueue(make_job(max_tokens=4000), deadline_ms=400)
        events = await wire.finished()
        check_log(events)
        assert events[-1].code == "deadline_exceeded"
        await wire.until_true(lambda: worker.engine.stats.running == 0)
        assert (await record(wire))["outcome"] == "deadline_exceeded"

    async def test_a_hand_over_keeps_the_deadline(self, local_worker, wire):
        first = local_worker("w1", step_s=0.005, drain_s=0).start()
        await wire.enqueue(make_job(max_tokens=4000), deadline_ms=900)
        await wire.until(has_tokens(2))
        first.worker.stop()
        local_worker("w2", step_s=0.005).start()
        events = await wire.finished()
        assert any(isinstance(event, Fence) for event in events)
        assert events[-1].code == "deadline_exceeded"


class TestPoison:
    async def test_it_is_set_aside_after_two_crashes_and_its_neighbours_lose_nothing(
        self, local_worker, wire, monkeypatch, model_files
    ):
        monkeypatch.setenv("SCRIPTED_CRASH_SEED", "666")
        monkeypatch.setenv("SCRIPTED_STEP_MS", "5")
        worker = local_worker(has_process=True, dead_ttl_s=5000, lease_s=20).start()
        jobs = [make_job(f"j{n}", seed=n, max_tokens=150) for n in range(6)]
        for job in jobs:
            await wire.enqueue(job)
        for job in jobs:
            await wire.until(has_tokens(3), job.id)
        await wire.enqueue(make_job("poison", seed=666))
        events = await wire.finished("poison")
        check_log(events)
        assert events[-1].code == "engine_crashed"
        assert "Request poison crashed the engine 2 times" in events[-1].message
        assert (await record(wire, "poison"))["outcome"] == "engine_crashed"
        assert await wire.client.zscore("dead", "poison") is not None
        for key in (contract.job_key("poison"), contract.log_key("poison")):
            assert 4900 < await wire.client.ttl(key) <= 5000
        for job in jobs:
            events = await wire.finished(job.id)
            check_log(events)
            assert ids_of(events) == scripted_ids(model_files, job)
            assert len([e for e in events if isinstance(e, Fence)]) == 2
        assert await wire.client.zcard("dead") == 1
        assert not worker.task.done()

    async def test_a_crash_before_anything_ran_is_nobody_s_fault(self, local_worker, wire):
        worker = local_worker(step_s=0.005)
        worker.start()
        worker.engine.die()
        await wire.enqueue(make_job())
        assert isinstance((await wire.finished())[-1], Done)
        assert "crashes" not in await record(wire)

    async def test_who_passed_its_probation_is_not_blamed_alone(self, local_worker, wire):
        worker = local_worker(step_s=0.003).start()
        await wire.enqueue(make_job(max_tokens=400))
        await wire.enqueue(make_job("other", max_tokens=400))
        await wire.until(has_tokens(2))
        await wire.until(has_tokens(2), "other")
        for tokens in (PROBATION_TOKENS + 40, PROBATION_TOKENS + 120):
            worker.engine.die()
            await wire.until(has_tokens(tokens))
            await wire.until(has_tokens(tokens), "other")
        for job_id in ("j", "other"):
            assert isinstance((await wire.finished(job_id))[-1], Done)
            assert (await record(wire, job_id))["crashes"] == "2"

    async def test_too_many_lost_attempts_make_a_dead_letter(self, local_worker, wire):
        await wire.enqueue(make_job())
        await wire.client.set("arq:retry:j", MAX_TRIES)
        local_worker(dead_ttl_s=5000).start()
        (event,) = await wire.finished()
        assert isinstance(event, Failed)
        assert event.code == "too_many_attempts"
        assert "Request j " in event.message
        assert (await record(wire))["outcome"] == "too_many_attempts"
        assert await wire.client.zscore("dead", "j") is not None
        assert 4900 < await wire.client.ttl("log:j") <= 5000

    async def test_a_cancelled_job_leaves_the_line_of_suspects(self, local_worker, wire):
        jobs = [make_job(name, max_tokens=3000) for name in ("a", "b")]
        worker = local_worker(step_s=0.003)
        for job in jobs:
            await wire.enqueue(job)
            await wire.client.hset(contract.job_key(job.id), "crashes", 3)
            if job.id == "a":
                worker.start()
                await wire.until(has_tokens(5), "a")
            else:
                worker.worker.wake()
        await wire.until_true(lambda: len(worker.worker.tasks) == 2)
        assert await wire.cancel(jobs[1]) == 0
        (event,) = await wire.finished("b")
        assert event.code == "cancelled"
        assert await wire.client.zscore(QUEUE, "a") is not None


class TestAHungEngine:
    async def test_a_stopped_engine_process_is_replaced_and_its_job_goes_on(
        self, local_worker, wire, monkeypatch, model_files
    ):
        monkeypatch.setenv("SCRIPTED_STEP_MS", "5")
        worker = local_worker(has_process=True, stall_s=0.4).start()
        job = make_job(max_tokens=120)
        await wire.enqueue(job)
        await wire.until(has_tokens(3))
        first = worker.engine.pid
        os.kill(first, signal.SIGSTOP)
        events = await wire.finished()
        check_log(events)
        assert ids_of(events) == scripted_ids(model_files, job)
        assert worker.engine.pid != first
        assert (await record(wire))["crashes"] == "1"

    async def test_an_engine_that_steps_slowly_is_left_alone(self, local_worker, wire):
        worker = local_worker(step_s=0.15, stall_s=0.5).start()
        await wire.enqueue(make_job(max_tokens=5))
        assert isinstance((await wire.finished())[-1], Done)
        assert worker.engine.num_kills == 0

    async def test_an_engine_that_waits_for_us_does_not_hang(self, local_worker, wire):
        worker = local_worker(step_s=30, stall_s=0.2).start()
        worker.engine.is_heard = False
        await wire.enqueue(make_job())
        await wire.until_true(lambda: worker.engine.stats.waiting)
        await wire.until(lambda events: bool(events))
        ticks = worker.service.leases._renewed_at_s
        await wire.until_true(lambda: worker.service.leases._renewed_at_s > ticks + 0.5)
        assert worker.engine.num_kills == 0
        worker.engine.is_heard = True
        await wire.until_true(lambda: worker.engine.num_kills)
