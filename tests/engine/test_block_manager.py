"""Block ownership and the prefix cache."""

import pytest
from hypothesis import given, settings, strategies as st

from engine.block_manager import BlockManager
from engine.config import SamplingParams
from engine.messages import SequenceRequest
from engine.sequence import Sequence

BLOCK_SIZE = 4


def make(num_tokens_or_ids, salt=""):
    ids = num_tokens_or_ids
    ids = list(range(ids)) if isinstance(ids, int) else list(ids)
    params = SamplingParams(max_tokens=100)
    return Sequence(SequenceRequest(id="a", prompt_ids=ids, params=params, salt=salt), (), 1000)


def run(manager, sequence):
    """As if a step had computed everything."""
    sequence.num_computed = len(sequence)
    manager.commit(sequence)


def admit(manager, sequence, num_spare=0):
    """Admit and compute; the number of cached tokens."""
    assert manager.admit(sequence, num_spare)
    cached = sequence.num_computed
    run(manager, sequence)
    return cached


def test_a_sequence_gets_room_for_all_its_tokens():
    manager = BlockManager(10, BLOCK_SIZE)
    sequence = make(9)
    assert manager.admit(sequence, 0)
    assert (len(sequence.blocks), sequence.capacity, manager.num_used) == (3, 12, 3)


def test_nothing_changes_if_it_does_not_fit():
    manager = BlockManager(4, BLOCK_SIZE)
    admit(manager, first := make(8))
    waiting = make([*range(8), 50, 51])
    assert not manager.admit(waiting, num_spare=2)
    assert (waiting.blocks, waiting.num_computed, manager.num_free) == ([], 0, 2)
    assert manager.admit(waiting, num_spare=1)
    assert waiting.blocks[:2] == first.blocks


def test_the_blocks_of_one_rope_set_are_never_hit_by_the_other():
    manager = BlockManager(20, BLOCK_SIZE)
    admit(manager, make(9))
    other = make(9)
    other.rope_set = 1
    assert admit(manager, other) == 0
    again = make(9)
    again.rope_set = 1
    assert admit(manager, again) == 8
    assert again.blocks[:2] == other.blocks[:2]


def test_freeing_gives_every_block_back():
    manager = BlockManager(3, BLOCK_SIZE)
    admit(manager, sequence := make(11))
    assert manager.num_free == 0
    manager.free(sequence)
    assert (manager.num_free, sequence.blocks, sequence.capacity) == (3, [], 0)
    assert manager.num_frees == 1


def test_a_block_more_is_refused_when_none_is_free():
    manager = BlockManager(2, BLOCK_SIZE)
    admit(manager, sequence := make(4))
    assert manager.extend(sequence)
    assert sequence.capacity == 8
    assert not manager.extend(sequence)
    assert len(sequence.blocks) == 2


@pytest.mark.parametrize(
    ("num_tokens", "num_cached"), [(3, 0), (4, 0), (5, 4), (8, 4), (9, 8), (40, 8)]
)
def test_the_last_token_of_a_prompt_is_never_cached(num_tokens, num_cached):
    manager = BlockManager(20, BLOCK_SIZE)
    admit(manager, make(9))
    assert admit(manager, make(num_tokens)) == num_cached


def test_a_block_is_hit_only_after_its_tokens_were_computed():
    manager = BlockManager(20, BLOCK_SIZE)
    first = make(9)
    assert manager.admit(first, 0)
    assert admit(manager, make(9)) == 0
    manager = BlockManager(20, BLOCK_SIZE)
    first = make(9)
    assert manager.admit(first, 0)
    first.num_computed = 7
    manager.commit(first)
    assert admit(manager, make(9)) == 4


def test_running_sequences_share_blocks_and_free_them_once():
    manager = BlockManager(20, BLOCK_SIZE)
    admit(manager, first := make(12))
    admit(manager, second := make(12))
    assert first.blocks[:2] == second.blocks[:2]
    assert first.blocks[2] != second.blocks[2]
    assert manager.num_used == 4
    manager.free(first)
    assert manager.num_used == 3
    manager.free(second)
    assert manager.num_used == 0


def test_freed_blocks_are_hit_until_they_are_reused():
    manager = BlockManager(6, BLOCK_SIZE)
    admit(manager, first := make(16))
    manager.free(first)
    again = make(17)
    assert admit(manager, again) == 16
    manager.free(again)
    admit(manager, other := make(range(100, 112)))  # takes the unused block, the nameless, one more
    manager.free(other)
    assert admit(manager, make(17)) == 12  # the tail went first


def test_the_least_recently_freed_goes_first():
    manager = BlockManager(4, BLOCK_SIZE)
    texts = [range(start, start + 5) for start in (0, 100)]
    for text in texts:
        admit(manager, sequence := make(text))
        manager.free(sequence)
    admit(manager, sequence := make(texts[0]))  # used again, so the other one is older now
    manager.free(sequence)
    admit(manager, other := make(range(200, 212)))
    manager.free(other)
    third = make(texts[0])
    assert admit(manager, third) == 4
    manager.free(third)
    assert admit(manager, make(texts[1])) == 0


def test_a_block_that_cannot_be_hit_goes_before_one_that_can():
    manager = BlockManager(3, BLOCK_SIZE)
    for text in (range(8), range(50, 53), range(60, 63)):  # two named, then one nameless, twice
        sequence = make(text)
        admit(manager, sequence)
        manager.free(sequence)
    assert admit(manager, make(9)) == 8


def test_generated_blocks_are_hit_too():
    manager = BlockManager(10, BLOCK_SIZE)
    admit(manager, sequence := make(3))
    for token_id in range(3, 9):
        sequence.token_ids.append(token_id)
        if len(sequence) > sequence.capacity:
            assert manager.extend(sequence)
        run(manager, sequence)
    assert admit(manager, make(9)) == 8


def test_different_salts_share_nothing():
    manager = BlockManager(20, BLOCK_SIZE)
    admit(manager, make(9, salt="x"))
    assert admit(manager, make(9, salt="y")) == 0
    assert admit(manager, make(9)) == 0
    assert admit(manager, make(9, salt="x")) == 8


def test_a_block_is_hit_only_behind_the_prefix_it_was_computed_with():
    manager = BlockManager(20, BLOCK_SIZE)
    admit(manager, make([0, 0, 0, 0, 1, 2, 3, 4, 5]))
    assert admit(manager, make([9, 9, 9, 9, 1, 2, 3, 4, 5])) == 0
    assert admit(manager, make([1, 2, 3, 4, 5])) == 0


def test_of_two_equal_blocks_one_stays_hittable_when_the_other_goes():
    manager = BlockManager(4, BLOCK_SIZE)
    first, second = make(5), make(5)
    assert manager.admit(first, 0)
    assert manager.admit(second, 0)
    run(manager, first)
    run(manager, second)
    manager.free(second)
    admit(manager, make(range(50, 58)))  # reuses both of the second's blocks
    manager.free(first)
    assert admit(manager, make(5)) == 4


def test_without_prefix_cache_nothing_is_hit():
    manager = BlockManager(20, BLOCK_SIZE, enable_prefix_cache=False)
    admit(manager, first := make(9))
    manager.free(first)
    assert admit(manager, make(9)) == 0


@st.composite
def operations(draw):
    """Sequences from few texts, so that prefixes are often shared, in any interleaving."""
    token = st.integers(0, 1)
    new = st.tuples(st.just("new"), st.lists(token, min_size=1, max_size=14), st.sampled_from("xy"))
    other = st.tuples(st.sampled_from(["grow", "free"]), st.integers(0, 9), token)
    return draw(st.lists(st.one_of(new, other), max_size=60))


class Driver:
    """Does what a scheduler may do, in any order, and remembers what lies in each block."""

    def __init__(self, num_blocks, block_size):
        self.manager = BlockManager(num_blocks, block_size)
        self.live: list[Sequence] = []
        self.content: dict[int, tuple[str, tuple[int, ...]]] = {}

    def prefix(self, sequence, index):
        return sequence.salt, tuple(sequence.token_ids[: (index + 1) * self.manager.block_size])

    def write(self, sequence):
        for index in range(sequence.num_computed // self.manager.block_size, len(sequence.blocks)):
            self.content[sequence.blocks[index]] = self.prefix(sequence, index)
        run(self.manager, sequence)

    def new(self, token_ids, salt):
        sequence = make(token_ids, salt=salt)
        num_free = self.manager.num_free
        if not self.manager.admit(sequence, 0):
            assert num_free == self.manager.num_free < -(-len(sequence) // self.manager.block_size)
            return
        assert sequence.num_computed < len(sequence)
        for index in range(sequence.num_computed // self.manager.block_size):
            assert self.content[sequence.blocks[index]] == self.prefix(sequence, index)
        self.live.append(sequence)
        self.write(sequence)

    def grow(self, which, token_id):
        sequence = self.live[which % len(self.live)]
        if len(sequence) < sequence.capacity or self.manager.extend(sequence):
            sequence.token_ids.append(token_id)
            self.write(sequence)

    def free(self, which, _):
        self.manager.free(self.live.pop(which % len(self.live)))


@settings(deadline=None)
@given(operations(), st.integers(1, 12), st.sampled_from([1, 2, 3]))
def test_no_block_is_leaked_or_stale_whatever_happens(steps, num_blocks, block_size):
    driver = Driver(num_blocks, block_size)
    for kind, what, extra in steps:
        if kind == "new" or driver.live:
            getattr(driver, kind)(what, extra)
        check(driver.manager, driver.live, block_size)
    while driver.live:
        driver.free(0, None)
    assert (driver.manager.num_used, driver.manager.num_free) == (0, num_blocks)


def check(manager, live, block_size):
    """Each block in use is owned, no one owns a block twice, and only equal prefixes are shared."""
    owners: dict[int, tuple[str, tuple[int, ...]]] = {}
    for sequence in live:
        assert len(set(sequence.blocks)) == len(sequence.blocks)
        assert len(sequence) <= sequence.capacity == len(sequence.blocks) * block_size
        for index, block in enumerate(sequence.blocks):
            prefix = (sequence.salt, tuple(sequence.token_ids[: (index + 1) * block_size]))
            assert owners.setdefault(block, prefix) == prefix
    assert manager.num_used == len(owners)
    assert manager.num_used + manager.num_free == manager.num_blocks
