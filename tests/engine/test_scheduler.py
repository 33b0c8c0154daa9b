"""The scheduler alone, driven with made-up tokens."""

import pytest
from hypothesis import given, settings, strategies as st

from engine.block_manager import BlockManager
from engine.config import SamplingParams
from engine.errors import InvalidInput
from engine.messages import SequenceRequest
from engine.scheduler import Scheduler
from engine.sequence import Sequence

BLOCK_SIZE = 4


def make(id, num_prompt=5, max_tokens=8, first_token=None, max_length=1000):
    first = ord(id[0]) * 100 if first_token is None else first_token
    request = SequenceRequest(
        id=id,
        prompt_ids=list(range(first, first + num_prompt)),
        params=SamplingParams(max_tokens=max_tokens),
    )
    return Sequence(request, (), max_length)


def scheduler_of(num_blocks=100, max_seqs=4, budget=64, *, cache=True, switch=0, sequences=()):
    scheduler = Scheduler(BlockManager(num_blocks, BLOCK_SIZE, cache), max_seqs, budget, switch)
    for sequence in sequences:
        scheduler.add(sequence)
    return scheduler


def plan(step):
    return {sequence.id: num_tokens for sequence, num_tokens in step.items()}


def commit(scheduler, step):
    return scheduler.commit(step, [7] * len(step.sampled))


def turn(scheduler):
    """One step; what was planned."""
    step = scheduler.schedule()
    planned = plan(step)
    commit(scheduler, step)
    return planned


def test_prompts_and_decodes_share_a_step():
    scheduler = scheduler_of(sequences=[make("a")])
    assert turn(scheduler) == {"a": 5}
    scheduler.add(make("b", 7))
    assert turn(scheduler) == {"a": 1, "b": 7}
    assert turn(scheduler) == {"a": 1, "b": 1}


def test_a_long_prompt_is_computed_in_chunks_and_sampled_after_the_last():
    scheduler = scheduler_of(budget=8, sequences=[make("a", 20)])
    sampled = []
    for expected in (8, 8, 4, 1):
        step = scheduler.schedule()
        assert plan(step) == {"a": expected}
        sampled.append(step.sampled)
        commit(scheduler, step)
    assert sampled == [[], [], [0], [0]]


def test_nothing_is_admitted_behind_a_prompt_that_is_not_through():
    scheduler = scheduler_of(budget=8, sequences=[make("a", 20), make("b", 3), make("c", 3)])
    assert turn(scheduler) == {"a": 8}
    assert turn(scheduler) == {"a": 8}
    assert turn(scheduler) == {"a": 4, "b": 3, "c": 1}
    assert turn(scheduler) == {"a": 1, "b": 1, "c": 2}


def test_a_decoding_sequence_gets_its_token_beside_two_long_prompts():
    scheduler = scheduler_of(budget=8, sequences=[make("a", 3), make("b", 30), make("c", 30)])
    turn(scheduler)
    for _ in range(5):
        assert turn(scheduler)["a"] == 1


def test_no_more_than_max_seqs_run():
    scheduler = scheduler_of(max_seqs=2, sequences=[make("a"), make("b"), make("c")])
    assert turn(scheduler) == {"a": 5, "b": 5}
    rows = {sequence.row for sequence in scheduler.running}
    assert rows == {0, 1}
    scheduler.cancel("a")
    assert turn(scheduler) == {"b": 1, "c": 5}
    assert {sequence.row for sequence in scheduler.running} == rows


def test_what_does_not_fit_waits_and_nothing_overtakes_it():
    scheduler = scheduler_of(num_blocks=6, sequences=[make("a", 12), make("b", 12), make("c", 3)])
    assert turn(scheduler) == {"a": 12}
    for _ in range(7):
        assert turn(scheduler) == {"a": 1}
    assert turn(scheduler) == {"b": 12, "c": 3}


def test_each_running_sequence_can_grow_by_a_block_after_an_admission():
    scheduler = scheduler_of(num_blocks=4, sequences=[make("a", 8), make("b", 8)])
    while "a" in scheduler:
        assert turn(scheduler) in ({"a": 8}, {"a": 1})
    assert turn(scheduler) == {"b": 8}
    scheduler = scheduler_of(num_blocks=5, sequences=[make("a", 8), make("b", 8)])
    assert turn(scheduler) == {"a": 8, "b": 8}


def test_what_does_not_fit_is_tried_again_only_after_blocks_came_back(monkeypatch):
    scheduler = scheduler_of(num_blocks=6, sequences=[make("a", 12), make("b", 12)])
    turn(scheduler)
    tried: list[str] = []
    admit = scheduler.blocks.admit

    def watched(sequence, num_spare):
        tried.append(sequence.id)
        return admit(sequence, num_spare)

    monkeypatch.setattr(scheduler.blocks, "admit", watched)
    while "a" in scheduler:
        turn(scheduler)
    assert tried == []
    turn(scheduler)
    assert tried == ["b"]


def test_no_block_is_kept_for_a_sequence_that_needs_no_more():
    scheduler = scheduler_of(num_blocks=4, sequences=[make("a", 6, 2), make("b", 8)])
    assert turn(scheduler) == {"a": 6, "b": 8}


def test_the_latest_arrival_gives_way_and_comes_back_first():
    sequences = [make("a", 8, 9), make("b", 8, 9)]
    scheduler = scheduler_of(num_blocks=6, sequences=sequences)
    assert turn(scheduler) == {"a": 8, "b": 8}
    scheduler.add(make("c", 4))
    for _ in range(4):
        assert turn(scheduler) == {"a": 1, "b": 1}
    assert turn(scheduler) == {"a": 1}
    assert scheduler.num_preemptions == 1
    assert list(scheduler.waiting) == ["b", "c"]
    assert (sequences[1].row, sequences[1].blocks) == (-1, [])
    while "a" in scheduler:
        turn(scheduler)
    # the two whole blocks of b's thirteen tokens that were not reused are still cached
    planned = turn(scheduler)
    assert list(planned) == ["b", "c"]
    assert planned["b"] < 13


def test_nothing_is_admitted_in_a_step_that_preempted():
    scheduler = scheduler_of(num_blocks=7, sequences=[make("a", 8, 30), make("b", 12, 30)])
    turn(scheduler)
    scheduler.add(make("c", 1, 1))
    for _ in range(4):
        turn(scheduler)
    while not scheduler.num_preemptions:
        step = scheduler.schedule()
        commit(scheduler, step)
    assert plan(step) == {"a": 1}


def test_a_preempted_sequence_reports_its_cached_tokens_once():
    scheduler = scheduler_of(num_blocks=6, sequences=[make("a", 8, 9), make("b", 8, 9)])
    outputs = []
    while len(scheduler):
        outputs += commit(scheduler, scheduler.schedule())
    assert scheduler.num_preemptions
    assert sum(output.cached_tokens for output in outputs) == 0
    assert (scheduler.prefix_queries, scheduler.prefix_hits) == (16, 0)


def test_hits_are_counted_and_told_with_the_first_token():
    scheduler = scheduler_of(sequences=[make("a", 10, 2)])
    while len(scheduler):
        turn(scheduler)
    scheduler.add(make("b", 10, 2, first_token=9700))
    (first,) = commit(scheduler, scheduler.schedule())
    (second,) = commit(scheduler, scheduler.schedule())
    assert (first.cached_tokens, second.cached_tokens) == (8, 0)
    assert (scheduler.prefix_queries, scheduler.prefix_hits) == (20, 8)


def test_two_of_one_id_are_refused():
    scheduler = scheduler_of(sequences=[make("a")])
    with pytest.raises(InvalidInput, match="'a' is already here"):
        scheduler.add(make("a"))


def test_a_budget_below_max_seqs_is_refused():
    with pytest.raises(ValueError, match="at least max_seqs, which is 4"):
        scheduler_of(budget=3)


def test_a_cancelled_sequence_is_gone_wherever_it_was():
    scheduler = scheduler_of(max_seqs=1, sequences=[make("a"), make("b")])
    turn(scheduler)
    for id in ("a", "b", "unknown"):
        scheduler.cancel(id)
    assert (len(scheduler), scheduler.blocks.num_used) == (0, 0)
    assert plan(scheduler.schedule()) == {}


def test_a_sequence_that_outgrows_the_rope_switch_is_computed_again_from_its_beginning():
    scheduler = scheduler_of(switch=10, sequences=[make("a", 8), make("b", 3)])
    assert [turn(scheduler) for _ in range(5)] == [
        {"a": 8, "b": 3},
        {"a": 1, "b": 1},
        {"a": 1, "b": 1},
        {"b": 1, "a": 11},  # eleven tokens are more than ten; it comes back as the last
        {"b": 1, "a": 1},
    ]
    assert scheduler.num_preemptions == 0


def test_a_prompt_beyond_the_rope_switch_is_computed_once():
    scheduler = scheduler_of(switch=10, sequences=[make("a", 11)])
    assert [turn(scheduler) for _ in range(3)] == [{"a": 11}, {"a": 1}, {"a": 1}]


def test_a_sequence_that_ends_as_it_outgrows_the_rope_switch_just_ends():
    scheduler = scheduler_of(switch=10, sequences=[make("a", 8, max_tokens=3)])
    assert [turn(scheduler) for _ in range(3)] == [{"a": 8}, {"a": 1}, {"a": 1}]
    assert (len(scheduler), scheduler.blocks.num_used) == (0, 0)


def test_those_that_outgrow_the_rope_switch_together_keep_their_order():
    sequences = [make("a", 9), make("b", 9), make("c", 20)]
    scheduler = scheduler_of(max_seqs=2, switch=10, sequences=sequences)
    for _ in range(2):
        assert list(turn(scheduler)) == ["a", "b"]
    assert turn(scheduler) == {"a": 11, "b": 11}
    assert list(scheduler.waiting) == ["c"]


def test_a_sequence_beyond_the_rope_switch_hits_only_blocks_of_its_own_kind():
    scheduler = scheduler_of(switch=10, sequences=[make("a", 10, 3, first_token=0)])
    while len(scheduler):
        turn(scheduler)
    # Its tokens are cached both ways by now: two blocks as short, three as long.
    scheduler.add(make("b", 10, first_token=0))
    scheduler.add(make("c", 11, first_token=0))
    scheduler.add(make("d", 14, first_token=100))
    assert turn(scheduler) == {"b": 2, "c": 3, "d": 14}


def test_a_cancelled_sequence_may_be_one_that_was_just_put_back():
    scheduler = scheduler_of(switch=10, sequences=[make("a", 10)])
    turn(scheduler)
    assert list(scheduler.waiting) == ["a"]
    scheduler.cancel("a")
    assert (len(scheduler), scheduler.blocks.num_used) == (0, 0)


REQUESTS = st.lists(
    st.tuples(
        st.integers(1, 30),  # prompt tokens
        st.integers(1, 25),  # max_tokens
        st.integers(0, 2),  # which text
        st.integers(0, 40),  # the step it comes in
        st.one_of(st.none(), st.integers(0, 60)),  # the step it is cancelled in
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(
    REQUESTS,
    st.integers(2, 14),
    st.integers(1, 4),
    st.integers(0, 20),
    st.booleans(),
    st.sampled_from([0, 0, 1, 16, 23]),
)
def test_every_sequence_ends_and_every_rule_holds_at_each_step(
    requests, num_blocks, max_seqs, spare_budget, cache, switch
):
    budget = max_seqs + spare_budget
    scheduler = scheduler_of(num_blocks, max_seqs, budget, cache=cache, switch=switch)
    limit = num_blocks * BLOCK_SIZE
    made: dict[str, int] = {}
    wanted: dict[str, int] = {}
    written: dict[int, int] = {}  # a block's rope set
    for now in range(3000):
        for i, (num_prompt, max_tokens, text, start, stop) in enumerate(requests):
            if start == now and num_prompt < limit:
                scheduler.add(make(str(i), num_prompt, max_tokens, text * 100, limit))
                made[str(i)], wanted[str(i)] = 0, min(max_tokens, limit - num_prompt)
            if stop == now and str(i) in scheduler:
                scheduler.cancel(str(i))
                del wanted[str(i)]
        if now > 60 and not len(scheduler):
            break
        step = scheduler.schedule()
        check(scheduler, step, budget, max_seqs)
        check_rope_sets(step, switch, written)
        for output in commit(scheduler, step):
            made[output.id] += 1
            assert (output.finish == "length") == (made[output.id] == wanted[output.id])
    else:
        raise AssertionError("the scheduler did not come to an end")
    assert {id: made[id] for id in wanted} == wanted
    assert scheduler.blocks.num_used == 0


def check_rope_sets(step, switch, written):
    """What a sequence finds computed must have been computed with its own rope set."""
    for sequence, num_tokens in step.items():
        assert sequence.rope_set == (0 < switch < len(sequence))
        for index, block in enumerate(sequence.blocks):
            if index * BLOCK_SIZE < sequence.num_computed:
                assert written[block] == sequence.rope_set
            elif index * BLOCK_SIZE < sequence.num_computed + num_tokens:
                written[block] = sequence.rope_set


def check(scheduler, step, budget, max_seqs):
    running = scheduler.running
    assert step.sequences == running
    assert bool(running) == bool(len(scheduler))
    assert step.num_batched_tokens <= budget
    assert len(running) <= max_seqs
    assert len({sequence.row for sequence in running} - {-1}) == len(running)
    assert all(num_tokens > 0 for num_tokens in step.num_tokens)
    for sequence, num_tokens in step.items():
        assert sequence.num_computed + num_tokens <= sequence.capacity
        assert len(sequence.blocks) * BLOCK_SIZE == sequence.capacity
    sampled = [i for i, (s, n) in enumerate(step.items()) if s.num_computed + n == len(s)]
    assert step.sampled == sampled
    assert {block for s in running for block in s.blocks} <= set(range(scheduler.blocks.num_blocks))
    assert scheduler.blocks.num_used == len({block for s in running for block in s.blocks})
