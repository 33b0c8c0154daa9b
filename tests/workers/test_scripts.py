"""Each Lua script by itself, against a real server."""

import re
from pathlib import Path

import pytest

from tests.workers.wire import QUEUE, Wire, make_job
from workers import contract
from workers.contract import (
    Append,
    Delta,
    Done,
    Failed,
    Fence,
    Retried,
    Started,
    Tokens,
    Usage,
    Vectors,
    encode,
)
from workers.lease import read_claims

LEASE_MS = 60_000


async def claim(wire: Wire, worker: str = "w1", free: int = 10, spare: int = 0) -> list[str]:
    """Ids taken, each with its attempt: `id:attempt`."""
    reply = await wire.script("claim", [QUEUE], [worker, free, spare, LEASE_MS])
    return [f"{job.id}:{job.attempt}" for job in read_claims(reply)]


async def release(wire: Wire, how: str, owner: str = "w1:1", job: str = "j", used: int = -1) -> int:
    keys = [contract.lease_key(job), QUEUE, contract.arq_job_key(job), f"arq:retry:{job}"]
    keys += [contract.job_key(job), contract.log_key(job)]
    args = [owner, job, how, contract.wake_channel(QUEUE), 5000, used, "done"]
    result: int = await wire.script("release", keys, args)
    return result


async def renew(wire: Wire, owner: str = "w1:1", job: str = "j") -> int:
    attempt = owner.rpartition(":")[2]
    (state,) = await wire.script("renew", [QUEUE], [LEASE_MS, LEASE_MS, job, owner, attempt])
    result: int = state
    return result


async def open_job(wire: Wire, owner: str = "w1:1", job: str = "j"):
    keys = [
        contract.lease_key(job),
        contract.job_key(job),
        contract.log_key(job),
        contract.cancel_key(job),
    ]
    worker, _, attempt = owner.rpartition(":")
    return await wire.script(
        "open", keys, [owner, encode(Fence(int(attempt), worker)), attempt, 77, "fp"]
    )


async def step(wire: Wire, *appends: Append, channel: str = "api:A"):
    return await wire.script("step", [], [channel, contract.encode_batch(appends)])


STARTED = encode(Started(0, 3))
DONE = encode(Done(1, Usage(3, 0)))


class TestClaim:
    async def test_takes_the_oldest_first_and_only_as_many_as_asked(self, wire):
        for number in range(5):
            await wire.enqueue(make_job(f"j{number}"))
        assert await claim(wire, free=2) == ["j0:1", "j1:1"]
        assert await claim(wire, free=2) == ["j2:1", "j3:1"]
        assert await claim(wire, free=2) == ["j4:1"]

    async def test_a_job_has_one_holder(self, wire):
        await wire.enqueue(make_job())
        assert await claim(wire, "w1") == ["j:1"]
        assert await claim(wire, "w2") == []
        assert await wire.client.get(contract.lease_key("j")) == b"w1:1"

    async def test_an_ended_lease_gives_the_next_attempt(self, wire):
        await wire.enqueue(make_job())
        await claim(wire, "w1")
        await wire.expire_lease()
        assert await claim(wire, "w2") == ["j:2"]

    async def test_looks_past_any_number_of_running_jobs(self, wire):
        for number in range(400):
            await wire.enqueue(make_job(f"j{number:03}"))
        assert len(await claim(wire, "w1", free=399)) == 399
        assert await claim(wire, "w2", free=5) == ["j399:1"]

    async def test_a_job_whose_record_expired_is_attempt_zero(self, wire):
        await wire.enqueue(make_job())
        await wire.client.delete(contract.job_key("j"))
        assert await claim(wire) == ["j:0"]


class TestOpen:
    async def test_refuses_who_does_not_hold_the_lease(self, wire):
        await wire.enqueue(make_job())
        await claim(wire, "w2")
        assert await open_job(wire, "w1:1") == [0]
        assert await wire.client.llen(contract.log_key("j")) == 0

    async def test_a_first_attempt_finds_the_job_and_writes_nothing(self, wire):
        job = make_job()
        await wire.enqueue(job)
        await claim(wire)
        assert await open_job(wire) == [1, encode(job), 0, b"", b"fp"]
        assert await wire.client.llen(contract.log_key("j")) == 0

    async def test_a_later_attempt_fences_even_an_empty_log(self, wire):
        await wire.enqueue(make_job())
        await claim(wire)
        await wire.expire_lease()
        await claim(wire, "w2")
        fence = encode(Fence(2, "w2"))
        assert (await open_job(wire, "w2:2"))[5:] == [fence]
        assert 0 < await wire.client.ttl(contract.log_key("j")) <= 77
        _, troubles = await step(wire, Append("j", 0, STARTED))
        assert troubles == [b"j", b"fenced", 1]

    async def test_a_later_attempt_has_all_the_time_that_a_log_lives(self, wire):
        await wire.enqueue(make_job())
        await claim(wire)
        await step(wire, Append("j", 0, STARTED, 5))
        await wire.expire_lease()
        await claim(wire, "w2")
        await open_job(wire, "w2:2")
        assert await wire.client.ttl(contract.log_key("j")) > 70

    async def test_a_log_that_ended_is_not_fenced(self, wire):
        await wire.enqueue(make_job())
        await claim(wire)
        await step(wire, Append("j", 0, STARTED), Append("j", 1, DONE))
        assert (await open_job(wire))[5:] == [STARTED, DONE]

    @pytest.mark.parametrize("entry", [b"\xff\xff", b"\x01"], ids=["no MessagePack", "no array"])
    async def test_a_damaged_log_is_handed_over_and_can_be_cancelled(self, wire, entry):
        job = make_job()
        await wire.enqueue(job)
        await claim(wire)
        await wire.client.rpush(contract.log_key("j"), entry)
        assert (await open_job(wire))[5] == entry
        assert await wire.cancel(job) == 0

    async def test_tells_of_a_cancel(self, wire):
        job = make_job()
        await wire.enqueue(job)
        await claim(wire)
        await wire.cancel(job)
        assert (await open_job(wire))[2] == 1


class TestStep:
    async def test_appends_and_publishes_in_order(self, wire):
        async with wire.client.pubsub() as pubsub:
            await pubsub.subscribe("api:A")
            await pubsub.get_message(timeout=1)
            reply = await step(wire, Append("j", 0, STARTED, 50), Append("j", 1, DONE, 7))
            assert reply == [1, []]
            message = await pubsub.get_message(timeout=1)
        assert contract.decode_batch(message["data"]) == [("j", 0, STARTED), ("j", 1, DONE)]
        assert await wire.client.lrange("log:j", 0, -1) == [STARTED, DONE]
        assert await wire.client.ttl("log:j") == 7

    async def test_a_repeated_entry_is_a_dup_and_not_published(self, wire):
        await step(wire, Append("j", 0, STARTED))
        async with wire.client.pubsub() as pubsub:
            await pubsub.subscribe("api:A")
            await pubsub.get_message(timeout=1)
            reply = await step(wire, Append("j", 0, STARTED), Append("other", 0, STARTED))
            message = await pubsub.get_message(timeout=1)
        assert reply == [1, [b"j", b"dup", 1]]
        assert contract.decode_batch(message["data"]) == [("other", 0, STARTED)]
        assert await wire.client.llen("log:j") == 1

    async def test_another_entry_at_the_index_is_fenced(self, wire):
        await step(wire, Append("j", 0, STARTED))
        assert await step(wire, Append("j", 0, DONE)) == [-1, [b"j", b"fenced", 1]]
        assert await wire.client.lrange("log:j", 0, -1) == [STARTED]

    async def test_an_entry_past_the_end_is_a_gap(self, wire):
        assert await step(wire, Append("j", 3, STARTED)) == [-1, [b"j", b"gap", 0]]
        assert await wire.client.exists("log:j") == 0

    @pytest.mark.parametrize("size", [0, 31, 32, 65_535, 65_536], ids=str)
    async def test_entries_of_every_size_cross_unchanged(self, wire, size):
        payload = encode(Failed(0, "x", "m" * size))
        await step(wire, Append("j", 0, payload))
        assert await wire.client.lindex("log:j", 0) == payload


class TestRenew:
    async def test_renews_what_we_hold(self, wire):
        await wire.enqueue(make_job())
        await claim(wire)
        await wire.client.pexpire(contract.lease_key("j"), 50)
        assert await renew(wire) == 1
        assert await wire.client.pttl(contract.lease_key("j")) > 50_000

    async def test_tells_what_another_holds(self, wire):
        await wire.enqueue(make_job())
        await claim(wire, "w2")
        assert await renew(wire, "w1:1") == 0

    async def test_takes_back_a_lease_that_ran_out(self, wire):
        await wire.enqueue(make_job())
        await claim(wire)
        await wire.expire_lease()
        assert await renew(wire) == 1
        assert await wire.client.get(contract.lease_key("j")) == b"w1:1"

    async def test_does_not_take_back_what_a_later_attempt_has_had(self, wire):
        await wire.enqueue(make_job())
        await claim(wire, "w1")
        await wire.expire_lease()
        await claim(wire, "w2")
        await wire.expire_lease()
        assert await renew(wire, "w1:1") == 0

    async def test_does_not_take_back_what_we_released(self, wire):
        await wire.enqueue(make_job())
        await claim(wire)
        await release(wire, "hand_back")
        assert await renew(wire) == 0
        assert await claim(wire, "w2") == ["j:2"]

    async def test_keeps_a_job_whose_record_redis_lost(self, wire):
        assert await renew(wire) == 1

    async def test_tells_of_a_cancel(self, wire):
        job = make_job()
        await wire.enqueue(job)
        await claim(wire)
        await wire.cancel(job)
        assert await renew(wire) == 2


class TestRelease:
    async def test_done_leaves_the_log_and_the_record_to_their_expiry(self, wire):
        await wire.enqueue(make_job())
        await claim(wire)
        await step(wire, Append("j", 0, STARTED, 50))
        assert await release(wire, "done") == 1
        keys = {key.decode() for key in await wire.client.keys("*")}
        assert keys == {"job:j", "log:j"}
        assert 0 < await wire.client.pttl("job:j") <= 5000

    async def test_hand_back_leaves_the_job_to_others_and_wakes_them(self, wire):
        await wire.enqueue(make_job())
        await claim(wire)
        await wire.client.set("arq:retry:j", 3)
        async with wire.client.pubsub() as pubsub:
            await pubsub.subscribe(contract.wake_channel(QUEUE))
            await pubsub.get_message(timeout=1)
            assert await release(wire, "hand_back") == 1
            assert (await pubsub.get_message(timeout=1))["type"] == "message"
        assert await claim(wire, "w2") == ["j:2"]
        assert await wire.client.get("arq:retry:j") == b"2"

    async def test_a_crash_counts_against_the_job(self, wire):
        await wire.enqueue(make_job())
        await claim(wire)
        await wire.client.set("arq:retry:j", 3)
        await release(wire, "crashed")
        assert await wire.client.get("arq:retry:j") == b"3"

    @pytest.mark.parametrize("how", ["done", "hand_back", "crashed"])
    async def test_a_stale_owner_changes_nothing(self, wire, how):
        await wire.enqueue(make_job())
        await claim(wire, "w2")
        assert await release(wire, how, "w1:1") == 0
        assert await wire.client.get(contract.lease_key("j")) == b"w2:1"
        assert await wire.client.zscore(QUEUE, "j") is not None
        assert await wire.client.exists(contract.arq_job_key("j")) == 1


class TestCancel:
    async def test_ends_a_waiting_job_at_once(self, wire):
        job = make_job()
        await wire.enqueue(job)
        assert await wire.cancel(job) == 1
        (event,) = await wire.events()
        assert isinstance(event, Failed)
        assert await claim(wire) == []

    async def test_tells_the_worker_of_a_running_one(self, wire):
        job = make_job()
        await wire.enqueue(job)
        await claim(wire)
        assert await wire.cancel(job) == 0
        assert await wire.client.zscore(QUEUE, "j") is not None

    async def test_knows_an_ended_and_an_unknown_job(self, wire):
        job = make_job()
        assert await wire.cancel(make_job(id="unknown")) == -1
        await wire.enqueue(job)
        await step(wire, Append("j", 0, DONE))
        assert await wire.cancel(job) == 2

    async def test_ends_a_job_whose_worker_died_before_it_said_anything(self, wire):
        job = make_job()
        await wire.enqueue(job)
        await claim(wire)
        await wire.expire_lease()
        assert await wire.cancel(job) == 1
        assert await wire.client.keys(f"{QUEUE}*") == []

    @pytest.mark.parametrize(
        "two",
        [
            Tokens(1, (Delta(0, (1,), "a"), Delta(1, (2,), "b"))),
            Vectors(1, 0, 2, b"\xff" * 8),
            Vectors(1, 0, 2, b"\xff" * 2**16),
        ],
        ids=["tokens", "vectors", "long vectors"],
    )
    async def test_ends_a_job_that_waits_behind_what_it_has_said(self, wire, two):
        job = make_job()
        await wire.enqueue(job)
        await claim(wire)
        await step(wire, Append("j", 0, STARTED), Append("j", 1, encode(two)))
        await wire.expire_lease()
        await claim(wire, "w2")
        await open_job(wire, "w2:2")
        await release(wire, "hand_back", "w2:2")
        async with wire.client.pubsub() as channel:
            await channel.subscribe("api:A")
            await channel.get_message(timeout=5)
            assert await wire.cancel(job) == 1
            message = await channel.get_message(timeout=5)
        *_, entry = await wire.client.lrange(contract.log_key("j"), 0, -1)
        assert contract.decode_event(entry) == Failed(3, "cancelled", "")
        assert contract.decode_batch(message["data"]) == [("j", 3, entry)]
        assert await wire.client.keys(f"{QUEUE}*") == []
        assert await renew(wire) == 0
        _, troubles = await step(wire, Append("j", 2, DONE))
        assert troubles[1] == b"fenced"

    async def test_a_cancel_is_remembered_as_long_as_the_job(self, wire):
        job = make_job()
        await wire.enqueue(job)
        await claim(wire)
        await wire.cancel(job)
        left_s = await wire.client.ttl(contract.job_key("j"))
        assert await wire.client.ttl(contract.cancel_key("j")) == pytest.approx(left_s, abs=2)

    async def test_a_job_that_was_given_up_is_lost_to_its_paused_worker(self, wire):
        job = make_job()
        await wire.enqueue(job)
        await claim(wire)
        await wire.expire_lease()
        await wire.cancel(job)
        assert await renew(wire) == 0
        assert await release(wire, "hand_back") == 0
        assert await claim(wire, "w2") == []


def test_the_readme_lists_every_key_of_a_queue():
    package = Path(contract.__file__).parent
    scripts = "".join(path.read_text() for path in (package / "lua").glob("*.lua"))
    used = set(re.findall(r"queue \.\. ':(\w+)", scripts))
    listed = re.findall(r"^\| Q:(\w+)", (package / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(used)


class TestRetry:
    RETRIED = encode(Retried(1))
    DIED = encode(Failed(1, "engine_crashed", ""))

    async def retry(self, wire: Wire, terminal: bytes = DIED) -> int:
        keys = [contract.job_key("j"), contract.log_key("j"), contract.arq_job_key("j")]
        keys += ["arq:retry:j", QUEUE]
        args = ["j", terminal, self.RETRIED, b"arq", 5000, contract.wake_channel(QUEUE)]
        result: int = await wire.script("retry", keys, args)
        return result

    async def die(self, wire: Wire) -> None:
        await wire.enqueue(make_job(tenant="a", cost=7, prompt_tokens=3))
        await claim(wire)
        await release(wire, "crashed")
        await claim(wire)
        await step(wire, Append("j", 0, STARTED), Append("j", 1, self.DIED))
        assert await release(wire, "dead", "w1:2") == 1

    async def test_a_dead_letter_starts_again_where_it_was(self, wire):
        await self.die(wire)
        assert await wire.client.zcard(contract.DEAD_KEY) == 1
        assert await self.retry(wire) == 1
        assert await wire.client.lrange("log:j", 0, -1) == [STARTED, self.RETRIED]
        assert await wire.client.zcard(contract.DEAD_KEY) == 0
        assert await wire.client.hgetall(f"{QUEUE}:tenants") == {b"a": b"1"}
        reply = read_claims(await wire.script("claim", [QUEUE], ["w2", 1, 0, LEASE_MS]))
        assert [(job.id, job.attempt, job.crashes) for job in reply] == [("j", 3, 0)]

    async def test_the_list_of_dead_letters_forgets_those_that_have_expired(self, wire):
        await wire.enqueue(make_job("kept"))
        await wire.client.zadd(contract.DEAD_KEY, {"gone": 1, "kept": 2})
        await self.die(wire)
        assert await wire.client.zrange(contract.DEAD_KEY, 0, -1) == [b"kept", b"j"]

    async def test_the_second_call_after_a_lost_reply_says_the_same(self, wire):
        await self.die(wire)
        assert [await self.retry(wire), await self.retry(wire)] == [1, 1]
        assert await wire.client.zcard(QUEUE) == 1

    async def test_only_a_dead_letter_whose_log_is_there_starts_again(self, wire):
        await self.die(wire)
        await wire.client.delete("log:j")
        assert await self.retry(wire) == 0
        assert await wire.client.exists(QUEUE, contract.DEAD_KEY) == 0


class TestEnqueue:
    async def test_refuses_an_id_twice_and_a_full_queue(self, wire):
        assert await wire.enqueue(make_job(cost=9)) == [1, -1, -1]
        assert await wire.enqueue(make_job()) == [0]
        assert await wire.enqueue(make_job("k"), limit=1) == [-1, 5]

    async def test_every_key_but_the_queue_expires(self, wire):
        await wire.enqueue(make_job())
        await claim(wire)
        assert await wire.client.zrange("chores", 0, -1) == [b"wait:j"]
        for key in await wire.client.keys("*"):
            is_emptied = key.startswith(QUEUE.encode()) or key == b"chores"  # by the job's end
            assert (await wire.client.ttl(key) > 0) is not is_emptied, key


class TestHeartbeat:
    async def beat(self, wire: Wire, worker: str = "w1") -> None:
        keys = [f"worker:{worker}", "workers", "models", "models:seen", "isq:m"]
        args = [worker, b"beat", 60_000, "m", b"card", 1000]
        await wire.script("heartbeat", keys, args)

    async def directory(self, wire: Wire):
        return await wire.script("directory", ["workers", "models", "models:seen"], [10])

    async def test_the_directory_shows_live_workers_and_their_model(self, wire):
        await self.beat(wire)
        await self.beat(wire, "w2")
        assert await self.directory(wire) == [[b"card"], [b"beat", b"beat"]]

    async def test_the_directory_forgets_the_dead(self, wire):
        await self.beat(wire)
        await wire.client.zadd("workers", {"w1": 1})
        await wire.client.zadd("models:seen", {"m": 1})
        assert await self.directory(wire) == [[], []]


# What came after Redis 6.2, the oldest server that the scripts are for.
TOO_NEW = re.compile(
    r"redis\.p?call\('(\w*EXPIRETIME|B?[LZ]MPOP|[SZ]INTERCARD|LCS|SORT_RO|\w+_RO|S?FCALL|FUNCTION|SPUBLISH"
    r"|HP?EXPIRE\w*|HP?TTL|HGETEX|HGETDEL|HSETEX|DELIFEQ|XACKDEL)'"
    r"|'P?EXPIRE(AT)?',[^)]*'(NX|XX|GT|LT)'|redis\.(setresp|register_function|acl_check_cmd)|#!lua"
)
LUA = sorted((Path(contract.__file__).parent / "lua").glob("*.lua"))


@pytest.mark.parametrize("path", LUA, ids=lambda path: path.stem)
def test_a_script_needs_no_newer_server_than_redis_62(path):
    assert not TOO_NEW.search(path.read_text())
