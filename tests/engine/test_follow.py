"""The step behind one whose tokens nobody knows yet: when it is certain, and what is in it."""

import pytest

from tests.engine.test_scheduler import BLOCK_SIZE, commit, make, plan, scheduler_of, turn


def decoding(num_steps=1, **settings):
    """A scheduler whose sequences have made some tokens, and its next step, not committed."""
    scheduler = scheduler_of(**settings)
    for _ in range(num_steps):
        turn(scheduler)
    return scheduler, scheduler.schedule()


def test_the_same_sequences_get_one_more_token():
    scheduler, step = decoding(sequences=[make("a"), make("b", 7)])
    following = scheduler.follow(step)
    assert plan(following) == {"a": 1, "b": 1}
    assert (following.sampled, following.admitted, following.is_decode) == ([0, 1], [], True)


def test_a_block_is_there_for_a_token_behind_the_unknown_one():
    sequence = make("a", BLOCK_SIZE - 1)
    scheduler, step = decoding(sequences=[sequence])
    assert (len(sequence), sequence.capacity) == (BLOCK_SIZE, BLOCK_SIZE)
    following = scheduler.follow(step)
    assert (following.extended, sequence.capacity) == ([sequence], 2 * BLOCK_SIZE)
    commit(scheduler, step)
    assert scheduler.follow(following).extended == []
    commit(scheduler, following)
    assert (len(sequence), sequence.num_computed) == (BLOCK_SIZE + 2, BLOCK_SIZE + 1)


def test_it_waits_where_a_block_would_have_to_be_taken_from_another():
    sequences = [make("a", BLOCK_SIZE - 1), make("b", BLOCK_SIZE - 1)]
    scheduler, step = decoding(num_blocks=3, sequences=sequences)
    used = scheduler.blocks.num_used
    assert scheduler.follow(step) is None
    assert scheduler.blocks.num_used == used


def test_one_that_ends_by_its_length_is_not_in_it():
    scheduler, step = decoding(sequences=[make("a", max_tokens=2), make("b")])
    following = scheduler.follow(step)
    assert plan(following) == {"b": 1}
    assert [output.finish for output in commit(scheduler, step)] == ["length", None]
    assert scheduler.follow(following) is not None


def test_there_is_none_behind_the_last_token_of_all():
    scheduler, step = decoding(sequences=[make("a", max_tokens=2)])
    assert scheduler.follow(step) is None


def test_a_cancelled_one_is_not_in_it():
    scheduler, step = decoding(sequences=[make("a"), make("b")])
    scheduler.cancel("a")
    assert plan(scheduler.follow(step)) == {"b": 1}
    scheduler.cancel("b")
    assert scheduler.follow(step) is None


def test_it_waits_for_one_that_may_be_admitted():
    scheduler, step = decoding(sequences=[make("a")])
    scheduler.add(make("b"))
    assert scheduler.follow(step) is None


def test_it_does_not_wait_for_one_that_was_refused_and_cannot_be_admitted_since():
    scheduler, step = decoding(num_blocks=4, sequences=[make("a", 5), make("b", 9)])
    assert [sequence.id for sequence in scheduler.running] == ["a"]
    assert scheduler.follow(step) is not None


def test_nor_where_all_rows_are_taken_unless_one_becomes_free():
    scheduler, step = decoding(max_seqs=1, sequences=[make("a", max_tokens=3), make("b")])
    following = scheduler.follow(step)
    assert plan(following) == {"a": 1}
    commit(scheduler, step)
    assert scheduler.follow(following) is None
    commit(scheduler, following)
    assert turn(scheduler) == {"b": 5}


def test_where_a_token_less_than_all_ends_it_waits_for_those_in_line():
    scheduler, step = decoding(
        max_seqs=2, sequences=[make("a", max_tokens=2), make("b"), make("c")]
    )
    assert scheduler.follow(step) is None


@pytest.mark.parametrize(("switch", "is_certain"), [(7, True), (6, False), (5, True), (8, True)])
def test_it_waits_for_one_that_outgrows_the_rope_switch(switch, is_certain):
    # The prompt of 5 has one more token by now, and one is being made.
    scheduler, step = decoding(switch=switch, sequences=[make("a")])
    assert (scheduler.follow(step) is not None) == is_certain
