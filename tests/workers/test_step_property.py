"""step.lua and the log's writer under random faults: against a model, and against each other."""

import asyncio
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import redis
import redis.asyncio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.workers.wire import QUEUE
from workers import contract
from workers.attempt import open_attempt
from workers.contract import Append, Delta, Event, Fence, Job, Sampling, Tokens
from workers.lease import Claim
from workers.redis_link import Scripts, close, connect
from workers.token_log import JobLog, TokenLog

SETTINGS = hypothesis.settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
JOBS = ("a", "b")
PAYLOADS = [contract.encode(Fence(n, "w")) for n in range(3)]


def model_step(
    logs: dict[str, list[bytes]], items: list[Append], previous: dict[str, bytes]
) -> list[Any]:
    """What step.lua should complain of; appends to `logs` what it should append."""
    troubles: list[Any] = []
    out: set[str] = set()
    previous = dict(previous)
    for item in items:
        if item.job in out:
            continue
        log = logs[item.job]
        before = previous.pop(item.job, None)
        if len(log) == item.index and (before is None or log[-1:] == [before]):
            log.append(item.payload)
            continue
        kind = b"gap" if len(log) < item.index else b"fenced"
        if log[item.index : item.index + 1] == [item.payload]:
            kind = b"dup"
        out |= {item.job} if kind != b"dup" else set()
        troubles += [item.job.encode(), kind, len(log)]
    return troubles


class ScriptMachine(RuleBasedStateMachine):
    """Any batches at all, by any number of writers, on logs that lose their tails."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.client = redis.Redis.from_url(self.url)
        self.client.flushall()
        self.step = self.client.register_script(contract.load_script("step"))
        self.pubsub = self.client.pubsub()
        self.pubsub.subscribe("api:A")
        self.pubsub.get_message(timeout=1)
        self.logs: dict[str, list[bytes]] = {job: [] for job in JOBS}

    @rule(
        items=st.lists(
            st.tuples(st.sampled_from(JOBS), st.integers(-2, 2), st.sampled_from(PAYLOADS)),
            min_size=1,
            max_size=6,
        ),
        previous=st.dictionaries(st.sampled_from(JOBS), st.sampled_from(PAYLOADS)),
    )
    def write(self, items: list[tuple[str, int, bytes]], previous: dict[str, bytes]) -> None:
        appends = [
            Append(job, max(0, len(self.logs[job]) + distance), payload)
            for job, distance, payload in items
        ]
        before = {job: len(log) for job, log in self.logs.items()}
        expected = model_step(self.logs, appends, previous)
        args: list[bytes | str] = [
            "api:A",
            contract.encode_batch(appends),
            contract.encode_previous(previous),
        ]
        receivers, troubles = self.step(keys=[], args=args)
        assert troubles == expected
        self.check_published(before, receivers)

    def check_published(self, before: dict[str, int], receivers: int) -> None:
        """What was appended, and only that, was published."""
        appended = {
            (job, index, log[index])
            for job, log in self.logs.items()
            for index in range(before[job], len(log))
        }
        assert receivers == (1 if appended else -1)
        if appended:
            message = self.pubsub.get_message(timeout=1)
            assert message is not None
            assert set(contract.decode_batch(message["data"])) == appended

    @rule(job=st.sampled_from(JOBS), count=st.integers(1, 3))
    def lose_tail(self, job: str, count: int) -> None:
        self.client.rpop(f"log:{job}", count)
        del self.logs[job][max(0, len(self.logs[job]) - count) :]

    def teardown(self) -> None:
        logs = {job: self.client.lrange(f"log:{job}", 0, -1) for job in JOBS}
        self.pubsub.close()
        self.client.close()
        assert logs == self.logs


class FaultyScripts(Scripts):
    """Loses calls on the way there or replies on the way back."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.faults: list[str] = []

    async def run(self, name: str, keys: Any = (), args: Any = ()) -> Any:
        fault = self.faults.pop() if self.faults and name == "step" else "none"
        if fault == "call":
            raise redis.ConnectionError("lost call")
        reply = await super().run(name, keys, args)
        if fault == "reply":
            raise redis.ConnectionError("lost reply")
        return reply


class Writer:
    """One attempt: writes what the one deterministic engine makes, from where the log ends."""

    def __init__(self, log: JobLog, token_log: TokenLog) -> None:
        self.log = log
        self.token_log = token_log

    async def write(self, sizes: list[int]) -> None:
        """Entries of `sizes` tokens; returns when they are durable or fenced."""
        if self.log.is_fenced:
            return
        for size in sizes:
            offset = self.log.offset
            deltas = tuple(Delta(0, (number,), "") for number in range(offset, offset + size))
            self.token_log.append(self.log, Tokens(offset, deltas))
        self.token_log.flush()
        async with asyncio.timeout(10):
            await self.log.settled()


def check(events: list[Event]) -> None:
    """Every token once, in order, by number and by content."""
    tokens = [e for e in events if isinstance(e, Tokens)]
    ids = [id_ for e in tokens for delta in e.deltas for id_ in delta.token_ids]
    offsets = [e.offset + i for e in tokens for i in range(len(e.deltas))]
    assert ids == offsets == list(range(len(ids)))


class WriterMachine(RuleBasedStateMachine):
    """Attempts succeed each other while the ones before go on writing and Redis forgets."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.client = connect(self.url, QUEUE)
        self.scripts = FaultyScripts(self.client)
        self.run(self.client.flushall())
        job = Job(id="j", kind="chat", model="m", home="A", created_s=0, sampling=Sampling(seed=0))
        self.run(self.client.execute_command("HSET", "job:j", "spec", contract.encode(job)))
        self.writers: list[Writer] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.take_over()

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    @rule()
    @precondition(lambda self: len(self.writers) < 5)
    def take_over(self) -> None:
        """A new attempt opens the log; the ones before know nothing of it."""
        attempt = len(self.writers) + 1
        claim = Claim("j", f"w{attempt}", attempt)
        self.run(self.client.set(contract.lease_key("j"), claim.owner))
        opened = self.run(open_attempt(self.scripts, claim, f"w{attempt}", 100, ""))
        assert opened is not None
        check(opened.events)
        token_log = TokenLog(self.scripts, job_ttl_s=100, result_ttl_s=100)
        self.tasks.append(self.loop.create_task(token_log.run()))
        self.writers.append(Writer(opened.log, token_log))

    @rule(
        back=st.integers(0, 2),
        sizes=st.lists(st.integers(1, 2), min_size=1, max_size=3),
        faults=st.lists(st.sampled_from(["none", "call", "reply"]), max_size=3),
    )
    def write(self, back: int, sizes: list[int], faults: list[str]) -> None:
        """The newest attempt, or one of the zombies before it."""
        self.scripts.faults = faults
        writer = self.writers[max(0, len(self.writers) - 1 - back)]
        self.run(writer.write(sizes))
        if writer.log.is_fenced and writer is self.writers[-1]:
            self.take_over()  # its lease is good, so the job is handed back and taken again
        self.check_log()

    @rule(count=st.integers(1, 4))
    def lose_tail(self, count: int) -> None:
        self.run(self.client.rpop(contract.log_key("j"), count))

    def entries(self) -> list[bytes]:
        entries: list[bytes] = self.run(self.client.lrange(contract.log_key("j"), 0, -1))
        return entries

    def check_log(self) -> None:
        check([contract.decode_event(entry) for entry in self.entries()])

    def teardown(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.run(asyncio.gather(*self.tasks, return_exceptions=True))
        self.run(close(self.client))
        self.loop.close()


@pytest.fixture
def own_url(redis_url: str) -> Iterator[str]:
    """The machines flush the server for each example."""
    yield redis_url
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()


def test_the_script_does_what_the_model_does(own_url):
    class Machine(ScriptMachine):
        url = own_url

    run_state_machine_as_test(Machine, settings=SETTINGS)


def test_two_writers_lost_replies_and_lost_tails_never_double_or_skip_a_token(own_url):
    class Machine(WriterMachine):
        url = own_url

    run_state_machine_as_test(Machine, settings=SETTINGS)
