"""A job of vectors, without Redis: what goes into the engine and when, what comes into the log."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from engine.messages import SequenceOutput
from tests.workers.test_job_run import Door, NoScripts
from tests.workers.wire import check_log, make_job
from workers.contract import Done, Started, Vectors, decode_event, num_events
from workers.engine_process import EngineDied
from workers.run import Attempt
from workers.runs import Runs
from workers.token_log import JobLog, TokenLog
from workers.vector_run import MAX_ENTRY_BYTES, Input, VectorRun


class DeadlyDoor(Door):
    is_dead = False

    def add(self, request):
        if self.is_dead:
            raise EngineDied("gone")
        super().add(request)


class Table:
    """A run of inputs of `lengths` tokens with its engine, its log and its router."""

    def __init__(self, lengths, *, window=100, past=(), attempt=1, door=None) -> None:
        self.door = door or Door()
        self.log = JobLog("j", "A", [], sum(num_events(event) for event in past))
        self.past = list(past)
        token_log = TokenLog(NoScripts(), job_ttl_s=1, result_ttl_s=1)
        self.runs = Runs(token_log)
        job = make_job(kind="embedding", prompts=[[5] * length for length in lengths])
        inputs = [Input(i, [5] * length) for i, length in enumerate(lengths)]
        place = Attempt(attempt, self.log, token_log, self.door)
        self.run = VectorRun(job, inputs, place, window=window)
        self.run.replay(past)
        self.runs.start(self.run)

    @property
    def inside(self) -> list[int]:
        """The numbers of the inputs that went into the engine."""
        return [int(request.id.split("/")[1]) for request in self.door.added]

    def step(self, *numbers: int, size: int = 1) -> None:
        """The engine makes vectors of some inputs."""
        self.runs.on_outputs([self.output(number, size) for number in numbers])

    def output(self, number: int, size: int = 1) -> SequenceOutput:
        return SequenceOutput(
            id=f"j/{number}/{self.run.attempt}", finish="stop", vector=vector(number, size)
        )

    @property
    def events(self) -> list[Any]:
        return self.past + [decode_event(entry) for entry in self.log.entries]


def vector(number: int, size: int = 1) -> bytes:
    return number.to_bytes(4, "little") * size


def vectors_of(events) -> list[bytes]:
    return [part for event in events if isinstance(event, Vectors) for part in event.parts()]


async def test_a_step_s_vectors_are_one_entry_and_each_is_an_event():
    table = Table([3, 4, 5])
    table.step(0, 1)
    table.step(2)
    started, two, one, done = table.events
    assert (started, done.usage.prompt_tokens) == (Started(0, 12), 12)
    assert (two.offset, two.first, two.num) == (1, 0, 2)
    assert (one.offset, one.first, one.num) == (3, 2, 1)
    assert vectors_of(table.events) == [vector(0), vector(1), vector(2)]
    check_log(table.events)
    assert table.run.ended.result() == "over"


async def test_what_comes_too_early_waits_for_those_before_it():
    table = Table([1, 1, 1])
    table.step(2)
    table.step(1)
    assert vectors_of(table.events) == []
    table.step(0)
    assert vectors_of(table.events) == [vector(0), vector(1), vector(2)]
    assert isinstance(table.events[-1], Done)


async def test_no_more_than_a_window_of_tokens_is_in_the_engine():
    table = Table([4] * 10, window=8)
    assert table.inside == [0, 1]
    table.step(0)
    assert table.inside == [0, 1, 2]
    table.step(1, 2)
    assert table.inside == [0, 1, 2, 3, 4]


async def test_an_input_that_is_longer_than_the_window_goes_in_alone():
    table = Table([9, 9], window=8)
    assert table.inside == [0]
    table.step(0)
    assert table.inside == [0, 1]


async def test_a_later_attempt_makes_what_is_not_in_the_log():
    past = [Started(0, 4), Vectors(1, 0, 2, vector(0) + vector(1))]
    table = Table([1, 1, 1, 1], past=past, attempt=2)
    assert table.inside == [2, 3]
    table.step(2, 3)
    assert vectors_of(table.events) == [vector(n) for n in range(4)]
    check_log(table.events)


async def test_an_attempt_that_finds_all_of_it_ends_the_job():
    table = Table([1], past=[Started(0, 1), Vectors(1, 0, 1, vector(0))], attempt=2)
    assert table.inside == []
    assert isinstance(table.events[-1], Done)
    assert table.run.ended.result() == "over"


async def test_large_vectors_are_split_over_entries():
    size = MAX_ENTRY_BYTES // 4 // 3
    table = Table([1] * 8)
    table.step(*range(8), size=size)
    entries = [event for event in table.events if isinstance(event, Vectors)]
    assert [entry.num for entry in entries] == [3, 3, 2]
    assert all(len(entry.data) <= MAX_ENTRY_BYTES for entry in entries)
    assert vectors_of(table.events) == [vector(n, size) for n in range(8)]
    check_log(table.events)


async def test_a_cancelled_job_leaves_the_engine_and_says_so():
    table = Table([1] * 5, window=3)
    table.step(0)
    table.run.cancel()
    assert table.door.cancelled == ["j/1/1", "j/2/1", "j/3/1"]
    assert table.events[-1].code == "cancelled"
    check_log(table.events)


async def test_an_input_that_the_engine_refuses_ends_the_job():
    table = Table([1, 1])
    output = SequenceOutput(id="j/0/1", error=("invalid_value", "no such token"))
    table.runs.on_outputs([output])
    assert (table.events[-1].code, table.events[-1].message) == ("invalid_value", "no such token")
    table.step(1)
    check_log(table.events)


async def test_an_engine_that_is_gone_when_more_is_to_go_in_gives_the_job_back():
    door = DeadlyDoor()
    table = Table([4] * 3, window=4, door=door)
    door.is_dead = True
    table.step(0)
    assert table.run.ended.result() == "engine_died"
    assert vectors_of(table.events) == [vector(0)]


async def test_a_job_takes_one_place_however_many_inputs_it_has():
    table = Table([1] * 50)
    assert table.runs.num_places == 1
    table.runs.remove(table.run)
    assert table.runs.num_places == 0


async def test_late_outputs_of_a_removed_job_find_nobody():
    table = Table([1, 1])
    table.run.hand_back()
    table.runs.remove(table.run)
    table.step(0, 1)
    assert vectors_of(table.events) == []


@pytest.mark.parametrize("count", [1, 2])
def test_the_rest_of_an_entry_is_numbered_on(count):
    entry = Vectors(5, 4, 3, b"".join(map(vector, (4, 5, 6))))
    rest = entry.behind(count)
    assert (rest.offset, rest.first, rest.num) == (5 + count, 4 + count, 3 - count)
    assert rest.parts() == entry.parts()[count:]


@given(st.data())
async def test_any_order_any_window_and_any_crash_give_each_vector_once(data):
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    window = data.draw(st.integers(1, 30))
    log: list[Any] = []
    for attempt in range(1, 4):
        table = Table(lengths, window=window, past=log, attempt=attempt)
        waiting = table.inside
        num_steps = data.draw(st.integers(0, 6)) if attempt < 3 else len(lengths)
        for _ in range(num_steps):
            if not waiting:
                break
            done = data.draw(st.lists(st.sampled_from(waiting), min_size=1, unique=True))
            before = len(table.inside)
            table.step(*done)
            waiting = [n for n in waiting if n not in done] + table.inside[before:]
        # What is not confirmed dies with the worker.
        made = table.events
        kept = len(log) + data.draw(st.integers(0, len(made) - len(log))) if attempt < 3 else None
        log = made[:kept]
        if log and isinstance(log[-1], Done):
            break
    assert vectors_of(log) == [vector(n) for n in range(len(lengths))]
    check_log(log)
