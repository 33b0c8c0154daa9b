"""The tensors of a step, against a builder that goes token by token."""

import numpy as np
import torch

from engine.batch import BatchBuilder, as_one_copy
from engine.block_manager import BlockManager
from engine.scheduler import Scheduler
from engine.sequence import Sequence
from tests.engine.hash_model import request

BLOCK_SIZE = 4


def make_scheduler(num_blocks=40, budget=16, rope_switch=0):
    return Scheduler(BlockManager(num_blocks, BLOCK_SIZE), 4, budget, rope_switch)


def builder(has_rope_sets=False, device="cpu"):
    return BatchBuilder(4, 100, BLOCK_SIZE, torch.device(device), has_rope_sets=has_rope_sets)


def add(scheduler, id, num_prompt, max_tokens=30):
    prompt = list(range(ord(id), ord(id) + num_prompt))
    scheduler.add(Sequence(request(prompt, id=id, max_tokens=max_tokens), (), 100))


def expected(step):
    tokens, positions, slots, starts, lengths, last = [], [], [], [0], [], []
    for index, (sequence, count) in enumerate(step.items()):
        for position in range(sequence.num_computed, sequence.num_computed + count):
            tokens.append(sequence.token_ids[position])
            positions.append(position)
            block = sequence.blocks[position // BLOCK_SIZE]
            slots.append(block * BLOCK_SIZE + position % BLOCK_SIZE)
        starts.append(len(tokens))
        lengths.append(position + 1)
        if index in step.sampled:
            last.append(len(tokens) - 1)
    return tokens, positions, slots, starts, lengths, last


def check(batch, sampled, step):
    tokens, positions, slots, starts, lengths, last = expected(step)
    assert batch.token_ids.tolist() == tokens
    assert batch.positions.tolist() == positions
    assert batch.slots.tolist() == slots
    assert batch.query_starts.tolist() == starts
    assert batch.context_lengths.tolist() == lengths
    assert batch.logits_indices.tolist() == last
    for row, (sequence, count) in zip(batch.block_tables.tolist(), step.items(), strict=True):
        num_blocks = -(-(sequence.num_computed + count) // BLOCK_SIZE)
        assert row[:num_blocks] == sequence.blocks[:num_blocks]
    assert sampled.rows.tolist() == [step.sequences[i].row for i in step.sampled]
    assert sampled.positions.tolist() == [len(step.sequences[i]) for i in step.sampled]


def test_every_step_of_a_mixed_run_has_the_tensors_of_its_tokens():
    scheduler, build = make_scheduler(num_blocks=16), builder()
    arrivals = {0: [("a", 5), ("b", 21)], 2: [("c", 9)], 5: [("d", 1), ("e", 14)], 9: [("f", 3)]}
    for now in range(200):
        for id, num_prompt in arrivals.get(now, []):
            add(scheduler, id, num_prompt)
        if not len(scheduler):
            break
        step = scheduler.schedule()
        batch, sampled = build.build(step)
        check(batch, sampled, step)
        scheduler.commit(step, range(len(step.sampled)))
    assert scheduler.num_preemptions


def test_every_token_has_the_rope_set_of_its_sequence():
    scheduler, build = make_scheduler(rope_switch=6), builder(has_rope_sets=True)
    for id, num_prompt in [("a", 5), ("b", 7)]:
        add(scheduler, id, num_prompt)
    seen = []
    for _ in range(3):
        step = scheduler.schedule()
        seen.append(build.build(step)[0].rope_sets.tolist())
        scheduler.commit(step, range(len(step.sampled)))
    # a's sixth token is its last short one; with the seventh it is computed again, behind b.
    assert seen == [[0] * 5 + [1] * 7, [0, 1], [1] + [1] * 7]


def test_a_model_with_one_set_of_frequencies_is_told_nothing_of_sets():
    scheduler = make_scheduler()
    add(scheduler, "a", 6)
    assert builder().build(scheduler.schedule())[0].rope_sets is None


def test_shapes_and_types_are_what_the_kernels_take():
    scheduler = make_scheduler()
    add(scheduler, "a", 6)
    batch, _ = builder(has_rope_sets=True).build(scheduler.schedule())
    types = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch._asdict().items()}
    assert types == {
        "token_ids": (torch.int64, (6,)),
        "positions": (torch.int64, (6,)),
        "slots": (torch.int64, (6,)),
        "block_tables": (torch.int32, (1, 2)),
        "query_starts": (torch.int32, (2,)),
        "context_lengths": (torch.int32, (1,)),
        "logits_indices": (torch.int64, (1,)),
        "rope_sets": (torch.int64, (6,)),
    }
    assert all(tensor.is_contiguous() for tensor in batch)


def test_a_chunk_that_is_not_the_last_wants_no_logits():
    scheduler = make_scheduler(budget=4)
    add(scheduler, "a", 6)
    batch, sampled = builder().build(scheduler.schedule())
    assert len(batch.logits_indices) == len(sampled.rows) == 0


def test_on_an_accelerator_a_batch_has_the_same_shapes():
    scheduler = make_scheduler(budget=64)
    for id in "abc":
        add(scheduler, id, 5 + ord(id) % 3)
    step = scheduler.schedule()
    there = builder(has_rope_sets=True, device="meta").build(step)[0]
    here = builder(has_rope_sets=True).build(step)[0]
    assert [(t.shape, t.dtype) for t in there] == [(t.shape, t.dtype) for t in here]


def test_tensors_that_travel_together_arrive_as_they_were():
    arrays = (np.arange(6).reshape(2, 3), np.arange(0), np.arange(9, 13))
    tensors = as_one_copy(arrays, torch.device("cpu"))
    assert [t.tolist() for t in tensors] == [[[0, 1, 2], [3, 4, 5]], [], [9, 10, 11, 12]]
