"""A change of weights goes through a fleet: one worker at a time, all or none, whoever dies."""

import asyncio
import time

import pytest

from engine.errors import LoadError
from engine.messages import EngineStats
from tests.workers.weights import MODEL, QUEUE, Fleet, until
from workers import contract
from workers.contract import Heartbeat, Swap
from workers.counts import Counts
from workers.heartbeat import Pulse
from workers.requantize import Place, start_as_wanted

KEY, TURN = contract.isq_key(MODEL), contract.isq_turn_key(MODEL)


@pytest.fixture
async def fleet(redis_url):
    fleet = Fleet(redis_url)
    yield fleet
    await fleet.end()


class Changes:
    """What an API process asks of Redis."""

    def __init__(self, wire) -> None:
        self.wire = wire

    async def begin(self, isq="Q8_0", change="c1"):
        args = [change, MODEL, isq, 60, 60_000]
        reply = await self.wire.script("isq_begin", [KEY, contract.re_isq_key(change)], args)
        return [item.decode() for item in reply]

    async def look(self, change="c1") -> dict[str, bytes]:
        """The change's fields; settles what the workers have said."""
        keys = [KEY, contract.re_isq_key(change)]
        _, *fields = await self.wire.script("isq_look", keys, [MODEL, 60])
        return {n.decode(): v for n, v in zip(fields[::2], fields[1::2], strict=True)}

    async def ended(self, change="c1") -> dict[str, bytes]:
        async def is_over():
            return (await self.look(change))["state"] != b"in_progress"

        await self.wire.until_true(is_over, f"the end of {change}")
        return await self.look(change)

    async def give_turn(self, worker: str) -> None:
        """Let this worker be the first."""
        await self.wire.client.set(TURN, worker, px=60_000)

    async def turn_owner(self) -> str:
        return (await self.wire.client.get(TURN) or b"").decode()

    async def wait_out(self, seconds=31.0) -> None:
        """As if so much time had passed since a worker last did something."""
        moved_ms = int(await self.wire.client.hget(KEY, "moved_ms"))
        await self.wire.client.hset(KEY, "moved_ms", moved_ms - int(seconds * 1000))


@pytest.fixture
def changes(wire):
    return Changes(wire)


async def test_workers_change_one_after_another_and_once(fleet, changes):
    workers = await fleet.start("w1", "w2", "w3", own_isq="Q2K")
    assert await changes.begin() == ["begun", "c1"]
    change = await changes.ended()
    assert change["state"] == b"completed"
    assert max(worker.engine.most_busy for worker in workers) == 1
    assert [worker.engine.loads for worker in workers] == [["Q8_0"]] * 3
    for worker in workers:
        swap = contract.decode_swap(change[f"worker:{worker.name}"])
        assert (swap.before, swap.after, swap.error) == ("Q2K", "Q8_0", "")
    assert await changes.turn_owner() == ""


async def test_who_has_the_type_already_loads_nothing(fleet, changes):
    (has_it,) = await fleet.start("w1", own_isq="Q8_0")
    (has_not,) = await fleet.start("w2", own_isq="Q4K")
    await changes.begin()
    assert (await changes.ended())["state"] == b"completed"
    assert (has_it.engine.loads, has_not.engine.loads) == ([], ["Q8_0"])


async def test_a_fleet_changes_within_a_moment_of_the_request(fleet, changes):
    await fleet.start("w1", "w2", "w3", heartbeat_s=30.0)
    await asyncio.sleep(0.2)  # they listen
    began_s = time.monotonic()
    await changes.begin()
    await changes.ended()
    assert time.monotonic() - began_s < 3


async def test_one_that_cannot_makes_all_others_go_back(fleet, changes):
    first, second, third = await fleet.start("w1", "w2", "w3", own_isq="Q2K")
    third.engine.error = "No room."
    await changes.give_turn("w1")
    await changes.begin()
    change = await changes.ended()
    assert change["state"] == b"failed"
    said = "Worker w3: No room. Every worker has the weights that it had before."
    assert change["error"].decode() == said
    assert fleet.types == ["Q2K"] * 3
    assert [worker.pulse.isq_change for worker in fleet.workers] == ["c1/back"] * 3
    assert first.engine.loads == ["Q8_0", "Q2K"]
    assert second.engine.loads in ([], ["Q8_0", "Q2K"])


async def test_they_go_back_to_what_was_asked_for_before_and_not_to_the_settings(fleet, changes):
    first, second = await fleet.start("w1", "w2", own_isq="Q2K")
    await changes.begin("Q4K", "c0")
    await changes.ended("c0")
    first.engine.error = second.engine.error = "No room."
    await changes.begin()
    assert (await changes.ended())["state"] == b"failed"
    assert fleet.types == ["Q4K", "Q4K"]
    assert await changes.wire.client.hget(KEY, "type") == b"Q4K"


async def test_one_that_cannot_go_back_starts_its_engine_again(fleet, changes):
    """A fleet of which some have other weights is worse than a restart."""
    good, bad = await fleet.start("w1", "w2", own_isq="Q2K")
    bad.engine.error = "No room."
    bad.engine.go.clear()
    await changes.give_turn("w1")
    await changes.begin()
    await until(lambda: fleet.busy == ["w2"])
    good.engine.error = "No room to go back."
    bad.engine.go.set()
    assert (await changes.ended())["state"] == b"failed"
    assert (fleet.types, good.engine.restarts) == (["Q2K", "Q2K"], ["Q2K"])


async def test_a_worker_that_comes_late_and_cannot_change_starts_its_engine_again(fleet, changes):
    await fleet.start("w1")
    await changes.begin()
    await changes.ended()
    (late,) = await fleet.start("w2")  # it began to load before anybody asked
    late.engine.error = "No room."
    await until(lambda: late.engine.restarts == ["Q8_0"])
    await until(lambda: late.pulse.isq_change == "c1")
    assert (await changes.look())["state"] == b"completed"


async def test_a_worker_that_dies_in_its_turn_holds_up_the_others_for_a_turn_and_is_not_missed(
    fleet, changes
):
    (dead,) = await fleet.start("w1", own_isq="Q2K")
    dead.engine.go.clear()
    await changes.begin()
    await until(lambda: fleet.busy == ["w1"])
    (other,) = await fleet.start("w2", own_isq="Q2K")
    await dead.die()
    assert await changes.turn_owner() == "w1"
    assert (await changes.look())["state"] == b"in_progress"
    change = await changes.ended()
    assert change["state"] == b"completed"
    assert {name for name in change if name.startswith("worker:")} == {"worker:w2"}
    assert other.engine.loads == ["Q8_0"]


async def test_a_turn_is_renewed_for_as_long_as_the_weights_load(fleet, changes):
    slow, other = await fleet.start("w1", "w2", turn_s=0.3)
    slow.engine.go.clear()
    other.engine.go.clear()
    await changes.begin()
    await until(lambda: fleet.busy)
    (busy,) = fleet.busy
    await asyncio.sleep(1.0)
    assert (fleet.busy, await changes.turn_owner()) == ([busy], busy)
    slow.engine.go.set()
    other.engine.go.set()
    assert (await changes.ended())["state"] == b"completed"


async def test_a_worker_that_lost_its_turn_is_heard_all_the_same(fleet, changes):
    workers = await fleet.start("w1", "w2", turn_s=60.0)
    for worker in workers:
        worker.engine.go.clear()
    await changes.begin()
    await until(lambda: fleet.busy)
    await changes.wire.client.delete(TURN)  # as an outage of Redis does
    await until(lambda: len(fleet.busy) == 2)
    for worker in workers:
        worker.engine.go.set()
    change = await changes.ended()
    assert change["state"] == b"completed"
    assert {"worker:w1", "worker:w2"} <= change.keys()


async def test_one_that_does_not_take_its_turn_makes_the_others_go_back(fleet, changes):
    _, deaf = await fleet.start("w1", "w2", own_isq="Q2K")
    deaf.tasks[1].cancel()  # its heart beats and it does nothing
    await changes.begin()
    await until(lambda: fleet.types[0] == "Q8_0")
    assert (await changes.look())["state"] == b"in_progress"
    await changes.wait_out()
    await changes.look()
    await until(lambda: fleet.types[0] == "Q2K")
    assert (await changes.look())["state"] == b"in_progress"
    await changes.wait_out()
    change = await changes.look()
    assert change["state"] == b"failed"
    assert change["error"].decode() == (
        "Worker w2 did not take it up within 30 s. Worker w2 did not take it up within 30 s. "
        "It may have the new weights still: restart it."
    )


async def test_a_draining_worker_is_not_waited_for(fleet, changes):
    _, leaves = await fleet.start("w1", "w2")
    leaves.pulse.is_draining = True
    await leaves.pulse.beat()
    await changes.begin()
    assert (await changes.ended())["state"] == b"completed"
    assert fleet.types == ["Q8_0", ""]


async def test_a_worker_of_a_version_without_re_isq_is_named_before_anything_begins(fleet, changes):
    await fleet.start("w1")
    beat = {"worker": "old", "model": MODEL, "running": 0, "waiting": 0}
    await changes.wire.client.set(contract.worker_key("old"), contract.encode(beat), ex=60)
    await changes.wire.client.zadd(contract.WORKERS_KEY, {"old": 1})
    assert await changes.begin() == ["unable", "old"]
    assert not await changes.wire.client.exists(KEY)


async def test_workers_of_another_model_have_no_part_in_it(fleet, changes):
    await fleet.start("w1")
    beat = Heartbeat(
        worker="x", model="n", running=0, waiting=0, kv_blocks_used=0, kv_blocks_total=0
    )
    await changes.wire.client.set(contract.worker_key("x"), contract.encode(beat), ex=60)
    await changes.wire.client.zadd(contract.WORKERS_KEY, {"x": 1})
    await changes.begin()
    assert (await changes.ended())["state"] == b"completed"


async def test_reports_that_come_twice_or_too_late_change_nothing(fleet, changes):
    await fleet.start("w1")
    await changes.begin()
    await changes.ended()
    before = await changes.wire.client.hgetall(KEY)
    swap = Swap(before="", after="", error="It failed.")
    for change in ("c0", "c1/back"):
        args = ["w1", MODEL, change, contract.encode(swap), swap.error]
        assert await changes.wire.script("isq_report", [KEY, TURN], args) == 0
    assert await changes.wire.client.hgetall(KEY) == before


async def test_what_was_asked_for_lives_as_long_as_the_workers_and_a_while(fleet, changes):
    (worker,) = await fleet.start("w1")
    await changes.begin()
    await changes.ended()
    await changes.wire.client.expire(KEY, 5)
    await worker.pulse.beat()
    assert 590 < await changes.wire.client.ttl(KEY) <= 600
    assert 0 < await changes.wire.client.ttl(contract.re_isq_key("c1")) <= 60


class Starting:
    """An engine that is started, in the place of EngineProcess."""

    def __init__(self, *bad: str) -> None:
        self.bad = bad
        self.isq = ""
        self.tried: list[str] = []

    def set_isq(self, isq: str) -> None:
        self.isq = isq

    async def start(self) -> None:
        self.tried.append(self.isq)
        if self.isq in self.bad:
            raise LoadError(f"{self.isq} cannot be loaded.")


@pytest.fixture
async def start(wire, link):
    async def start(engine, own_isq="Q2K"):
        return await start_as_wanted(wire.client, link, Place("w9", MODEL, own_isq), engine)

    return start


async def test_a_worker_that_starts_later_loads_what_the_others_have(fleet, changes, start):
    engine = Starting()
    assert (await start(engine), engine.tried) == ("", ["Q2K"])
    await fleet.start("w1")
    await changes.begin()
    await changes.ended()
    engine = Starting()
    assert (await start(engine), engine.tried) == ("c1", ["Q8_0"])
    await fleet.start("w2", isq="Q8_0", change="c1")
    await asyncio.sleep(0.3)
    assert fleet.workers[1].engine.loads == []


async def test_a_worker_that_starts_in_the_middle_and_cannot_gives_the_change_up(
    fleet, changes, start
):
    (worker,) = await fleet.start("w1", own_isq="Q2K")
    worker.engine.go.clear()
    await changes.begin()
    await until(lambda: fleet.busy)
    engine = Starting("Q8_0")
    assert await start(engine) == "c1/back"
    assert engine.tried == ["Q8_0", "Q2K"]
    worker.engine.go.set()
    change = await changes.ended()
    assert change["state"] == b"failed"
    assert change["error"].startswith(b"Worker w9: Q8_0 cannot be loaded.")
    assert fleet.types == ["Q2K"]


async def test_a_worker_that_cannot_load_what_all_others_have_does_not_start(fleet, changes, start):
    await fleet.start("w1")
    await changes.begin()
    await changes.ended()
    with pytest.raises(LoadError, match="Q8_0 cannot be loaded"):
        await start(Starting("Q8_0"))
    assert (await changes.look())["state"] == b"completed"


async def test_a_heartbeat_tells_which_change_is_wanted(wire, link):
    card = contract.ModelCard(name=MODEL, queue=QUEUE, context_length=1, vocab_size=1, created_s=0)
    pulse = Pulse(link, "w1", card, EngineStats, counts=Counts(), period_s=1.0)
    heard: list[str] = []
    pulse.on_wanted = heard.append
    await pulse.beat()
    await wire.client.hset(KEY, "change", "c1")
    await pulse.beat()
    assert heard == ["", "c1"]
