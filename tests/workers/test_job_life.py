"""The job's life by the queue's scripts in a real server, any faults, beside a plain model."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

import hypothesis
import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.workers.queue_scripts import CLASSES, QueueScripts
from workers import contract
from workers.contract import Delta, Done, Event, Failed, Fence, Retried, Started, Tokens, Usage
from workers.lease import CANCELLED, LOST, RENEWED

WORKERS = ("w1", "w2", "w3")
TENANTS = ("", "a", "b:c", "ü")  # keys are made of names: these must not meet
CANCELLED_ENTRY = contract.encode(Failed(0, "cancelled", ""))


@dataclasses.dataclass
class ModelJob:
    """What we know of a job."""

    id: str
    tenant: str
    service_class: str
    cost: int
    tokens: int
    is_followed: bool
    queued_ms: int
    state: str = "waiting"  # running, over
    owner: str = ""  # who has the lease, while it runs and the lease lives
    attempts: int = 0
    crashes: int = 0
    released: str = ""
    is_cancelled: bool = False
    is_dead: bool = False
    num_ends: int = 0
    has_record: bool = True
    log: list[bytes] = dataclasses.field(default_factory=list)

    @property
    def events(self) -> list[Event]:
        return [contract.decode_event(entry) for entry in self.log]

    @property
    def is_closed(self) -> bool:
        return bool(self.log) and contract.is_terminal(contract.decode_event(self.log[-1]))


@dataclasses.dataclass
class Attempt:
    """A worker that believes that it holds a job, rightly or not."""

    job: ModelJob
    owner: str
    number: int
    entries: list[bytes] = dataclasses.field(default_factory=list)
    is_open: bool = False
    is_fenced: bool = False
    is_over: bool = False  # it wrote the terminal entry
    is_gone: bool = False  # it released its lease

    @property
    def offset(self) -> int:
        return sum(contract.num_events(contract.decode_event(entry)) for entry in self.entries)


class JobLife(RuleBasedStateMachine):
    """Workers that claim, pause, wake and die; clients that ask, ask again and give up."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = QueueScripts(self.url)
        self.client = self.scripts.client
        self.jobs: list[ModelJob] = []
        self.attempts: list[Attempt] = []
        self.keys: dict[tuple[str, str], tuple[str, ModelJob]] = {}

    def teardown(self) -> None:
        self.client.close()

    # What the model knows

    def unfinished(self) -> list[ModelJob]:
        return [job for job in self.jobs if job.state != "over"]

    def waiting(self) -> list[ModelJob]:
        """Oldest first; jobs whose lease ran out wait as soon as somebody looks."""
        jobs = [job for job in self.jobs if job.state == "waiting"]
        return sorted(jobs, key=lambda job: (job.queued_ms, job.id))

    def pick(self, data: st.DataObject, jobs: list[Any]) -> Any:
        """One of the list, the last ones more often."""
        return jobs[-1 - data.draw(st.integers(0, min(7, len(jobs) - 1)))]

    def end(self, job: ModelJob) -> None:
        job.state, job.owner = "over", ""
        job.num_ends += job.is_followed

    # Clients

    @initialize(
        first=st.lists(
            st.tuples(st.sampled_from(TENANTS), st.sampled_from(CLASSES)), min_size=2, max_size=4
        ),
        num_running=st.integers(0, 4),
    )
    def begin(self, first: list[tuple[str, str]], num_running: int) -> None:
        for tenant, service_class in first:
            self.enqueue(tenant, service_class, 300, 100, True, {}, "", "", 1)
        self.claim("w1", num_running, 0)

    @rule(
        tenant=st.sampled_from(TENANTS),
        service_class=st.sampled_from(CLASSES),
        cost=st.sampled_from([1, 300, 5000]),
        tokens=st.sampled_from([0, 100]),
        is_followed=st.booleans(),
        bounds=st.sampled_from([{}, {}, {"max_jobs": 4}, {"tenant_jobs": 2}, {"max_tokens": 250}]),
        key=st.sampled_from(["", "", "k"]),
        digest=st.sampled_from(["d1", "d2"]),
        tries=st.integers(1, 2),
    )
    @precondition(lambda self: len(self.unfinished()) < 5)
    def enqueue(
        self,
        tenant: str,
        service_class: str,
        cost: int,
        tokens: int,
        is_followed: bool,
        bounds: dict[str, int],
        key: str,
        digest: str,
        tries: int,
    ) -> None:
        job = ModelJob(
            f"j{len(self.jobs):03}",
            tenant,
            service_class,
            cost,
            tokens,
            is_followed,
            self.scripts.now_ms,
        )
        terms: dict[str, Any] = {
            **bounds,
            "prompt_tokens": tokens,
            "is_followed": is_followed,
            "wait_ms": 60_000,
        }
        if key:
            terms |= {"digest": digest, "key": key}
        expected = self.expected_code(job, bounds, key, digest)
        for _ in range(tries):
            code, *rest = self.scripts.enqueue(job.id, tenant, service_class, cost, **terms)
            assert code == expected
            if code == 2:
                assert rest[0].decode() == self.keys[tenant, key][1].id
            if code == 1:
                self.jobs.append(job)
                if key:
                    self.keys[tenant, key] = (digest, job)
                expected = 0

    def expected_code(self, job: ModelJob, bounds: dict[str, int], key: str, digest: str) -> int:
        known = self.keys.get((job.tenant, key))
        if key and known is not None and known[1].has_record:
            return 2 if known[0] == digest else -5
        unfinished, waiting = self.unfinished(), self.waiting()
        if len(unfinished) >= bounds.get("max_jobs", 1000):
            return -1
        num_tokens = sum(other.tokens for other in waiting)
        if waiting and num_tokens + job.tokens > bounds.get("max_tokens", 10**9):
            return -1
        mine = sum(other.tenant == job.tenant for other in unfinished)
        return -2 if mine >= bounds.get("tenant_jobs", 1000) else 1

    @rule(data=st.data(), whom=st.sampled_from(["", "waiting", "unstarted"]))
    @precondition(lambda self: len(self.unfinished()) > 2)
    def cancel(self, data: st.DataObject, whom: str) -> None:
        self.cancel_job(self.pick(data, self.jobs), whom)

    def cancel_job(self, job: ModelJob, whom: str) -> None:
        reply = self.scripts.cancel(job.id, CANCELLED_ENTRY, whom)
        if not job.has_record:
            assert reply == -1
            job.is_cancelled |= not whom  # it is remembered: the job may be on its way
        elif job.is_closed:
            assert reply == 2
        elif not (job.log and whom == "unstarted") and not job.owner and job.state != "over":
            assert reply == 1
            offset = sum(map(contract.num_events, job.events))
            job.log.append(contract.encode(Failed(offset, "cancelled", "")))
            job.is_cancelled = True
            self.end(job)
            assert self.scripts.cancel(job.id, CANCELLED_ENTRY, whom) == 2
        else:
            assert reply == 0
            job.is_cancelled |= not whom

    # Workers

    @rule(worker=st.sampled_from(WORKERS), free=st.integers(0, 3), spare=st.integers(0, 2))
    def claim(self, worker: str, free: int, spare: int) -> None:
        for job in self.unfinished():
            if job.state == "running" and not job.owner:
                job.state = "waiting"  # its lease ran out
        could = self.waiting()
        taken = self.scripts.claim(worker, free, spare)
        by_id = {job.id: job for job in could}
        assert len({claimed.id for claimed in taken}) == len(taken)
        urgent = [job for job in could if job.service_class != "batch"]
        assert len(taken) >= min(len(could), free)
        assert len(taken) <= free + (spare if urgent else 0)
        for claimed in taken:
            job = by_id.pop(claimed.id)
            older = [
                other
                for other in by_id.values()
                if (other.tenant, other.service_class) == (job.tenant, job.service_class)
                and (other.queued_ms, other.id) < (job.queued_ms, job.id)
            ]
            assert not older
            assert not job.has_record or claimed.crashes == job.crashes
            self.note_claim(job, worker, claimed.attempt)
        left = Counter(job.service_class == "batch" for job in by_id.values())
        assert len(taken) == free + spare or not left[False]

    def note_claim(self, job: ModelJob, worker: str, number: int) -> None:
        job.attempts += job.has_record
        assert number == (job.attempts if job.has_record else 0)
        job.state, job.owner = "running", f"{worker}:{number}"
        self.attempts.append(Attempt(job, job.owner, number))

    @rule(data=st.data())
    @precondition(lambda self: self.attempts)
    def open(self, data: st.DataObject) -> None:
        attempt = self.pick(data, self.attempts)
        job = attempt.job
        if attempt.is_open:
            return
        reply = self.scripts.open(job.id, attempt.owner)
        if job.owner != attempt.owner:
            assert reply == [0]
            attempt.is_open = attempt.is_fenced = True
            return
        if not job.is_closed and (job.log or attempt.number > 1):
            worker = attempt.owner.rpartition(":")[0]
            job.log.append(contract.encode(Fence(attempt.number, worker)))
        assert reply[5:] == job.log
        assert reply[2] == job.is_cancelled
        attempt.entries = list(job.log)
        attempt.is_open, attempt.is_over = True, job.is_closed

    def writers(self) -> list[Attempt]:
        return [a for a in self.attempts if a.is_open and not a.is_fenced and not a.is_over]

    @rule(
        data=st.data(),
        kind=st.sampled_from(["tokens", "tokens", "done", "failed"]),
        tries=st.integers(1, 2),
    )
    @precondition(lambda self: self.writers())
    def step(self, data: st.DataObject, kind: str, tries: int) -> None:
        """The owner, or one that paused and does not know better, appends; replies may be lost."""
        attempt = self.pick(data, self.writers())
        offset = attempt.offset
        event: Event = Tokens(offset, (Delta(0, (offset,), "x"), Delta(1, (offset,), "y")))
        if offset == 0 and kind != "failed":
            event = Started(0, 3)
        elif kind == "done":
            event = Done(offset, Usage(3, 1))
        elif kind == "failed":
            event = Failed(offset, "engine_crashed", "")
        attempt.entries.append(contract.encode(event))
        for _ in range(tries):
            self.write(attempt, len(attempt.entries) - 1)
        attempt.is_over = not attempt.is_fenced and contract.is_terminal(event)

    def write(self, attempt: Attempt, index: int) -> None:
        job, entry = attempt.job, attempt.entries[index]
        previous = attempt.entries[index - 1] if index else None
        _, troubles = self.scripts.step(job.id, index, entry, previous)
        fits = len(job.log) == index and (not index or job.log[-1] == previous)
        if fits:
            assert troubles == []
            job.log.append(entry)
        elif troubles[1] == b"gap":
            assert len(job.log) < index
            for i in range(len(job.log), index + 1):
                if not attempt.is_fenced:
                    self.write(attempt, i)
        elif troubles[1] == b"dup":
            assert job.log[index] == entry
        else:
            attempt.is_fenced = True

    @rule(data=st.data(), count=st.integers(1, 3))
    @precondition(lambda self: any(job.log and not job.is_closed for job in self.jobs))
    def lose_tail(self, data: st.DataObject, count: int) -> None:
        """A restart of Redis forgot the last second."""
        job = self.pick(data, [job for job in self.jobs if job.log and not job.is_closed])
        self.client.rpop(contract.log_key(job.id), count)
        del job.log[max(0, len(job.log) - count) :]

    @rule(worker=st.sampled_from(WORKERS))
    def renew(self, worker: str) -> None:
        """All that a worker believes to hold; after a pause that may be wrong."""
        held = [a for a in self.attempts if a.owner.startswith(worker) and not a.is_gone]
        # Of a record that is lost nobody can say whether a later attempt has been.
        held = [a for a in held if a.job.has_record or a.job.owner == a.owner]
        self.renew_attempts(held)

    def renew_attempts(self, held: list[Attempt]) -> None:
        if not held:
            return
        states = self.scripts.renew(*[(a.job.id, a.owner) for a in held])
        for attempt, state in zip(held, states, strict=True):
            job = attempt.job
            is_free = not job.owner and job.state != "over"
            if is_free and job.attempts == attempt.number and job.released != attempt.owner:
                job.state, job.owner = "running", attempt.owner
            if job.owner != attempt.owner:
                assert state == LOST
                attempt.is_gone = True
            else:
                assert state == (CANCELLED if job.is_cancelled else RENEWED)

    @rule(data=st.data())
    @precondition(lambda self: any(job.owner and job.has_record for job in self.jobs))
    def expire_lease(self, data: st.DataObject) -> None:
        job = self.pick(data, [job for job in self.jobs if job.owner and job.has_record])
        self.lose_lease(job)

    def lose_lease(self, job: ModelJob) -> None:
        self.scripts.expire_lease(job.id)
        job.owner = ""

    def owners(self) -> list[Attempt]:
        return [a for a in self.attempts if a.job.owner == a.owner and a.job.has_record]

    @rule(
        data=st.data(),
        meanwhile=st.lists(st.sampled_from(["reap", "claim", "lose", "cancel"]), max_size=3),
        is_written=st.booleans(),
    )
    @precondition(lambda self: self.owners())
    def pause(self, data: st.DataObject, meanwhile: list[str], is_written: bool) -> None:
        """A worker stops for longer than its lease and wakes; it knows of nothing."""
        attempt = self.pick(data, self.owners())
        job = attempt.job
        self.lose_lease(job)
        for what in meanwhile:
            if what == "cancel":
                self.cancel_job(job, "")
            elif what == "lose" and job.owner:
                self.lose_lease(job)
            else:
                self.claim("w9", 9 if what == "claim" else 0, 0)
        if is_written and attempt in self.writers() and not attempt.entries:
            attempt.entries.append(contract.encode(Started(0, 3)))
            self.write(attempt, 0)
        self.renew_attempts([attempt])

    @rule(
        data=st.data(),
        how=st.sampled_from(["hand_back", "crashed"]),
        used=st.sampled_from([-1, 0, 50, 90_000]),
        is_renewed=st.booleans(),
    )
    @precondition(lambda self: self.attempts)
    def release(self, data: st.DataObject, how: str, used: int, is_renewed: bool) -> None:
        attempt = self.pick(data, self.attempts)
        job = attempt.job
        if attempt.is_over:
            is_failed = isinstance(contract.decode_event(attempt.entries[-1]), Failed)
            how = "dead" if is_failed else "done"
        is_ours = job.owner == attempt.owner
        assert self.scripts.release(job.id, attempt.owner, how, used) == is_ours
        assert self.scripts.release(job.id, attempt.owner, how, used) == 0
        attempt.is_gone = True
        if not is_ours:
            return
        job.owner, job.released = "", attempt.owner
        if how in ("done", "dead"):
            self.end(job)
            job.is_dead = how == "dead"
        else:
            job.state = "waiting"
            job.crashes += how == "crashed"
        if is_renewed and job.has_record:  # a renewal was under way
            self.renew_attempts([attempt])

    # Operators, API processes and accidents

    @rule(data=st.data())
    @precondition(lambda self: any(job.state == "over" and job.has_record for job in self.jobs))
    def retry(self, data: st.DataObject) -> None:
        job = self.pick(data, [j for j in self.jobs if j.state == "over" and j.has_record])
        offset = getattr(job.events[-1], "offset", 0)
        instead = contract.encode(Retried(offset))
        assert self.scripts.retry(job.id, job.log[-1], instead) == job.is_dead
        if job.is_dead:
            job.log[-1] = instead
            job.is_dead = False
            job.crashes = 0
            job.state, job.queued_ms = "waiting", self.scripts.now_ms
            assert self.scripts.retry(job.id, instead, instead) == 1  # the reply was lost

    @rule()
    def do_chores(self) -> None:
        chores = self.client.zrangebyscore(contract.CHORES_KEY, "-inf", self.scripts.now_ms)
        ended = [name.decode() for name in chores if name.startswith(b"ended:")]
        for name in ended:
            self.client.zrem(contract.CHORES_KEY, name)
        for job in self.jobs:
            assert (f"ended:{job.id}" in ended) == bool(job.num_ends)
            job.num_ends = 0

    @rule(data=st.data())
    @precondition(lambda self: any(job.has_record and not job.log for job in self.unfinished()))
    def lose_record(self, data: st.DataObject) -> None:
        """A job waited longer than its record lives."""
        jobs = [job for job in self.unfinished() if job.has_record and not job.log]
        job = self.pick(data, [job for job in jobs if job.state == "waiting"] or jobs)
        if job.state == "waiting":
            self.client.delete(contract.job_key(job.id), contract.arq_job_key(job.id))
            job.has_record = False

    @rule(ms=st.sampled_from([1, 300, 5000, 11_000, 700_000]))
    def advance(self, ms: int) -> None:
        self.scripts.advance(ms)

    # What always holds

    def names(self, key: str) -> list[str]:
        return [name.decode() for name in self.client.lrange(self.scripts.key(key), 0, -1)]

    def numbers(self, key: str) -> dict[str, int]:
        items = self.client.hgetall(self.scripts.key(key)).items()
        return {name.decode(): int(value) for name, value in items}

    def ids(self, key: str) -> list[str]:
        return [name.decode() for name in self.client.zrange(key, 0, -1)]

    def all_ids(self, keys: Iterable[str]) -> dict[str, list[str]]:
        with self.client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.zrange(key, 0, -1)
            replies = pipe.execute()
        return {k: [id_.decode() for id_ in ids] for k, ids in zip(keys, replies, strict=True)}

    @invariant()
    def every_job_waits_or_runs_or_is_over(self) -> None:
        key = self.scripts.key
        assert set(self.ids(self.scripts.queue)) == {job.id for job in self.unfinished()}
        running = {job.id for job in self.unfinished() if job.state == "running"}
        assert set(self.ids(key("leases"))) == running
        expected: dict[str, list[str]] = {}
        for service_class in CLASSES:
            jobs = [job for job in self.waiting() if job.service_class == service_class]
            expected[key(f"class:{service_class}")] = [job.id for job in jobs]
            for tenant in TENANTS:
                mine = [job.id for job in jobs if job.tenant == tenant]
                expected[key(f"wait:{service_class}:{tenant}")] = mine
        assert self.all_ids(expected) == expected

    @invariant()
    def the_ring_has_each_tenant_that_waits_once(self) -> None:
        for service_class in CLASSES:
            jobs = [job for job in self.waiting() if job.service_class == service_class]
            ring = self.names(f"ring:{service_class}")
            assert len(set(ring)) == len(ring)
            assert set(ring) >= {job.tenant for job in jobs}
            assert set(self.numbers(f"balance:{service_class}")) == set(ring)
            assert bool(ring) == bool(jobs)

    @invariant()
    def the_books_are_right(self) -> None:
        waiting, unfinished = self.waiting(), self.unfinished()
        assert self.numbers("tenants") == Counter(job.tenant for job in unfinished)
        books = self.client.hkeys(self.scripts.key("jobs"))
        assert {name.decode() for name in books} == {job.id for job in unfinished}
        sums = self.scripts.sums()
        assert sums.get("waiting_jobs", 0) == len(waiting)
        assert sums.get("waiting_tokens", 0) == sum(job.tokens for job in waiting)
        for service_class in CLASSES:
            costs: Counter[str] = Counter()
            for job in waiting:
                if job.service_class == service_class:
                    costs[job.tenant] += job.cost
            assert self.numbers(f"cost:{service_class}") == costs
            assert sums.get(f"cost:{service_class}", 0) == sum(costs.values())

    @invariant()
    def a_job_has_one_owner(self) -> None:
        leases = self.client.mget([contract.lease_key(job.id) for job in self.jobs] or ["none"])
        for job, lease in zip(self.jobs, leases, strict=False):
            assert (lease or b"").decode() == job.owner

    @invariant()
    def logs_have_no_gap_and_one_end(self) -> None:
        with self.client.pipeline(transaction=False) as pipe:
            for job in self.jobs:
                pipe.lrange(contract.log_key(job.id), 0, -1)
            logs = pipe.execute()
        for job, log in zip(self.jobs, logs, strict=True):
            assert log == job.log
            offset = 0
            events = job.events
            for event in events:
                assert isinstance(event, Fence) or event.offset == offset
                offset += contract.num_events(event)
            assert not any(contract.is_terminal(event) for event in events[:-1])
            assert job.state != "over" or contract.is_terminal(events[-1])

    @invariant()
    def who_follows_a_job_hears_once_that_it_ended(self) -> None:
        chores = self.ids(contract.CHORES_KEY)
        for job in self.jobs:
            assert (f"ended:{job.id}" in chores) == bool(job.num_ends)
            assert job.state != "over" or f"wait:{job.id}" not in chores

    @invariant()
    def nothing_is_left_of_an_empty_queue(self) -> None:
        if not self.unfinished():
            left = {key.decode() for key in self.client.keys(f"{self.scripts.queue}*")}
            assert left <= {self.scripts.key("sums")}
            assert set(self.scripts.sums()) <= {"drained", "drain_at", "drain_ms"}


def run(url: str, max_examples: int, num_steps: int) -> None:
    class Machine(JobLife):
        pass

    Machine.url = url
    settings = hypothesis.settings(
        max_examples=max_examples,
        stateful_step_count=num_steps,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=settings)
    with redis.Redis.from_url(url) as client:
        client.flushall()


def test_a_job_is_served_once_and_ends_once_whatever_happens(redis_url):
    run(redis_url, 60, 50)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_job_is_served_once_and_ends_once_whatever_happens_for_long(redis_url):
    run(redis_url, 2000, 150)
