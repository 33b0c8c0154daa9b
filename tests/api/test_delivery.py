"""A reader gets each entry once and in order, however they arrive."""

import asyncio
import random

import pytest

from api.delivery import MAX_WAITING, Reader
from workers.contract import Delta, Done, Failed, Fence, Started, Tokens, Usage, Vectors


def tokens(offset):
    return Tokens(offset, (Delta(0, (offset,), f"{offset} "),))


LOG = [Started(0, 3), tokens(1), Fence(2, "w"), tokens(2), tokens(3), Done(4, Usage(3, 3))]
SEEN = [event for event in LOG if not isinstance(event, Fence)]


def test_entries_in_order_are_taken_without_the_fences():
    reader = Reader("j")
    for index, event in enumerate(LOG):
        reader.accept(index, event)
    assert reader.first == LOG[0]
    assert reader.take() == SEEN
    assert reader.take() == []
    assert reader.is_over


@pytest.mark.parametrize("seed", range(20))
def test_any_order_with_repeats_and_rereads_gives_each_entry_once(seed):
    rng = random.Random(seed)
    reader = Reader("j")
    taken = []
    for _ in range(60):
        index = rng.randrange(len(LOG))
        reader.accept(index, LOG[index])
        if reader.is_behind and rng.random() < 0.5:
            for again in range(reader.next_index, rng.randrange(len(LOG)) + 1):
                reader.accept(again, LOG[again])
        if rng.random() < 0.3:
            taken += reader.take()
    for index in range(reader.next_index, len(LOG)):
        reader.accept(index, LOG[index])
    assert taken + reader.take() == SEEN


def test_a_gap_shows_and_nothing_is_taken_behind_it():
    reader = Reader("j")
    reader.accept(2, tokens(2))
    assert reader.is_behind
    assert reader.take() == []


def test_nothing_follows_the_terminal_entry():
    reader = Reader("j")
    reader.accept(0, Failed(0, "x", "y"))
    reader.accept(1, tokens(1))
    assert len(reader.take()) == 1
    assert not reader.is_behind


def test_a_full_reader_keeps_no_more_and_is_behind_once_there_is_room():
    reader = Reader("j")
    for index in range(MAX_WAITING + 5):
        reader.accept(index, tokens(index))
    assert reader.is_full
    assert not reader.is_behind
    assert len(reader.take()) == MAX_WAITING
    assert reader.is_behind
    assert reader.next_index == MAX_WAITING


@pytest.mark.parametrize(
    "what",
    [lambda r: r.accept(0, tokens(0)), Reader.leave, Reader.drain],
    ids=["entry", "leave", "drain"],
)
async def test_what_happens_wakes_the_client(what):
    reader = Reader("j")
    waiting = asyncio.ensure_future(reader.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    what(reader)
    await asyncio.wait_for(waiting, 1)
    await asyncio.wait_for(reader.wait(), 1)  # and it stays so


async def test_pings_wake_only_those_who_want_them():
    reader = Reader("j")
    waiting = asyncio.ensure_future(reader.wait())
    await asyncio.sleep(0)
    reader.ping()
    await asyncio.sleep(0)
    assert not waiting.done()
    reader.wants_pings = True
    reader.ping()
    await asyncio.wait_for(waiting, 1)


async def test_a_whole_answer_is_woken_at_its_end_and_when_it_must_make_room():
    reader = Reader("j", wakes_at_end=True)
    waiting = asyncio.ensure_future(reader.wait())
    await asyncio.sleep(0)
    for index in range(MAX_WAITING - 1):
        reader.accept(index, tokens(index))
    await asyncio.sleep(0)
    assert not waiting.done()
    reader.accept(MAX_WAITING - 1, tokens(MAX_WAITING - 1))
    await asyncio.wait_for(waiting, 1)
    reader.take()
    reader.accept(MAX_WAITING, Done(MAX_WAITING, Usage(1, 1)))
    await asyncio.wait_for(reader.wait(), 1)


async def test_a_limited_wait_ends():
    await asyncio.wait_for(Reader("j").wait_for(0.01), 1)


def test_a_failure_of_our_own_ends_the_stream():
    reader = Reader("j")
    reader.fail(Failed(-1, "job_lost", "gone"))
    assert reader.is_over
    assert isinstance(reader.first, Failed)


def step(offset, *token_ids, choices=(0, 1)):
    """A step's entry: one token for each of some choices."""
    pairs = zip(choices, token_ids, strict=True)
    return Tokens(offset, tuple(Delta(choice, (i,), f"{i} ") for choice, i in pairs))


def test_an_end_that_was_lost_and_made_again_is_taken_once():
    made = [Started(0, 3), step(1, 10, 20), step(3, 11, 21), step(5, 12, 22)]
    reader = Reader("j")
    for index, event in enumerate(made):
        reader.accept(index, event)
    # Redis lost the last two entries; the new attempt's fence stands in their place.
    again = [Fence(2, "w"), step(3, 11, 21), step(5, 12, 22), step(7, 13, 23), Done(9, Usage(3, 8))]
    for index, event in enumerate(again, 2):
        reader.accept(index, event)
    assert reader.take() == [*made, *again[3:]]
    assert reader.is_over


def test_of_an_entry_that_repeats_in_part_the_rest_is_taken():
    reader = Reader("j")
    reader.accept(0, step(0, 10, choices=(0,)))
    reader.accept(1, step(0, 10, 20))
    assert reader.take() == [step(0, 10, choices=(0,)), step(1, 20, choices=(1,))]


@pytest.mark.parametrize(
    "other",
    [step(1, 99, 20), step(1, 20, 10, choices=(1, 0)), Done(1, Usage(3, 0))],
    ids=["another token", "another choice", "another kind"],
)
def test_an_end_that_was_made_again_otherwise_ends_the_stream(other):
    reader = Reader("j")
    for index, event in enumerate([Started(0, 3), step(1, 10, 20), Fence(2, "w"), other]):
        reader.accept(index, event)
    *_, last = reader.take()
    assert isinstance(last, Failed)
    assert last.code == "job_lost"
    assert reader.is_over


def vectors(offset, *numbers, junk=b""):
    data = b"".join(number.to_bytes(4, "little") for number in numbers)
    return Vectors(offset, numbers[0], len(numbers), junk or data)


def test_vectors_that_were_lost_and_made_again_are_taken_once_however_they_are_grouped():
    reader = Reader("j")
    made = [Started(0, 3), vectors(1, 0, 1), vectors(3, 2)]
    again = [Fence(2, "w"), vectors(1, 0), vectors(2, 1, 2, 3, 4), vectors(6, 5)]
    for index, event in enumerate([*made, *again]):
        reader.accept(index, event)
    assert reader.take() == [*made, vectors(4, 3, 4), vectors(6, 5)]


def test_another_rounding_of_a_vector_is_as_good():
    reader = Reader("j")
    again = vectors(1, 0, junk=b"else")
    for index, event in enumerate([Started(0, 3), vectors(1, 0), Fence(2, "w"), again]):
        reader.accept(index, event)
    assert reader.take() == [Started(0, 3), vectors(1, 0)]
