"""Token counts of running sequences."""

from array import array

import torch

from engine.penalties import TokenCounts


def make():
    return TokenCounts(max_seqs=3, vocab_size=6, device=torch.device("cpu"))


def test_counts_are_of_the_output_and_seen_of_everything():
    table = make()
    table.start(1, array("i", [0, 0, 5, 2, 2, 3]), num_prompt_tokens=3)
    counts, seen = table.of(torch.tensor([1]))
    assert counts.tolist() == [[0, 0, 2, 1, 0, 0]]
    assert seen.tolist() == [[True, False, True, True, False, True]]


def test_new_tokens_are_counted_in_their_rows():
    table = make()
    table.start(0, array("i", [1]), 1)
    table.start(2, array("i", [1]), 1)
    rows = torch.tensor([2, 0])
    table.add(rows, torch.tensor([4, 1]))
    table.add(rows, torch.tensor([4, 3]))
    counts, seen = table.of(torch.tensor([0, 2]))
    assert counts.tolist() == [[0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 2, 0]]
    assert seen.long().tolist() == [[0, 1, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0]]


def test_a_row_begins_anew_with_its_next_sequence():
    table = make()
    table.start(0, array("i", [1, 2, 3]), 1)
    table.start(0, array("i", [5]), 1)
    counts, seen = table.of(torch.tensor([0]))
    assert (counts.tolist(), seen.long().tolist()) == ([[0] * 6], [[0, 0, 0, 0, 0, 1]])
