"""Each formula of sampling against a plain one, a row at a time in float64."""

import math

import pytest
import torch

from engine import gumbel, sampling

VOCAB_SIZE = 300
NUM_ROWS = 7


def make_logits(vocab_size=VOCAB_SIZE, num_rows=NUM_ROWS, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, vocab_size, generator=generator) * spread


def softmax(row):
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    total = sum(weights)
    return [weight / total for weight in weights]


def kept(logits):
    return [{i for i, v in enumerate(row) if v > -math.inf} for row in logits.tolist()]


def test_best_is_the_largest_and_the_lowest_id_among_equals():
    logits = torch.tensor([[1.0, 5.0, 5.0, 0.0], [-math.inf, -2.0, -3.0, -2.0], [0.0] * 4])
    assert sampling.best(logits).tolist() == [1, 1, 0]


def test_penalties_follow_their_formula():
    logits = make_logits()
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(0, 3, logits.shape, generator=generator, dtype=torch.int32)
    seen = (counts > 0) | (torch.rand(logits.shape, generator=generator) < 0.2)
    frequency, presence, repetition = torch.rand(3, NUM_ROWS, generator=generator) + 0.5
    got = sampling.penalize(logits, counts, seen, frequency, presence, repetition)
    for r in range(NUM_ROWS):
        f, p, x = float(frequency[r]), float(presence[r]), float(repetition[r])
        for i, value in enumerate(logits[r].double().tolist()):
            count = int(counts[r, i])
            value -= count * f + (p if count else 0.0)
            if seen[r, i]:
                value = value / x if value > 0 else value * x
            assert float(got[r, i]) == pytest.approx(value, rel=1e-5, abs=1e-5)


def test_penalties_of_nothing_change_nothing():
    logits = make_logits()
    zeros, ones = torch.zeros(NUM_ROWS), torch.ones(NUM_ROWS)
    counts = torch.ones(logits.shape, dtype=torch.int32)
    assert sampling.penalize(logits, counts, counts > 0, zeros, zeros, ones).equal(logits)


def test_top_k_keeps_the_k_largest():
    logits = make_logits()
    top_k = torch.tensor([1, 2, 3, 10, 50, 299, 300])
    for row, k, ids in zip(
        logits, top_k.tolist(), kept(sampling.keep_top_k(logits, top_k)), strict=True
    ):
        order = sorted(range(VOCAB_SIZE), key=lambda i: -float(row[i]))
        assert ids == set(order[:k])


def test_top_k_keeps_all_that_tie_with_the_last():
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]])
    assert kept(sampling.keep_top_k(logits, torch.tensor([2]))) == [{1, 2, 3}]


@pytest.mark.parametrize("vocab_size", [300, 3000])
@pytest.mark.parametrize("spread", [0.05, 3.0], ids=["flat", "peaked"])
def test_top_p_keeps_the_smallest_set_that_reaches_p(vocab_size, spread):
    logits = make_logits(vocab_size, spread=spread)
    top_p = torch.tensor([1e-6, 0.1, 0.3, 0.5, 0.9, 0.99, 0.999])
    for row, p, ids in zip(
        logits.double().tolist(),
        top_p.double().tolist(),
        kept(sampling.keep_top_p(logits, top_p)),
        strict=True,
    ):
        probabilities = softmax(row)
        order = sorted(range(vocab_size), key=lambda i: -probabilities[i])
        expected: list[int] = []
        mass = 0.0
        while mass < p:
            mass += probabilities[order[len(expected)]]
            expected.append(order[len(expected)])
        assert abs(len(ids) - len(expected)) <= (1 if abs(mass - p) < 1e-5 else 0)
        assert ids <= set(expected) or set(expected) <= ids


def test_top_p_keeps_all_that_tie_with_the_last_and_always_the_best():
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0, -9.0], [0.0, 5.0, 0.0, 0.0, 0.0]])
    assert kept(sampling.keep_top_p(logits, torch.tensor([0.3, 0.0]))) == [{0, 1, 2, 3}, {1}]


def test_top_p_counts_only_the_mass_that_top_k_left():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.9, 0.8]])
    both = sampling.keep_top_p(sampling.keep_top_k(logits, torch.tensor([2])), torch.tensor([0.7]))
    assert kept(both) == [{0}]  # 0.73 of two, but 0.55 of five
    assert kept(sampling.keep_top_p(logits, torch.tensor([0.7]))) == [{0, 1}]


def test_min_p_keeps_what_is_probable_enough_beside_the_best():
    logits = make_logits()
    min_p = torch.tensor([1e-6, 0.001, 0.01, 0.05, 0.2, 0.5, 1.0])
    got = kept(sampling.keep_min_p(logits, min_p))
    for row, p, ids in zip(logits.double().tolist(), min_p.double().tolist(), got, strict=True):
        probabilities = softmax(row)
        limit = p * max(probabilities)
        certain = {i for i, q in enumerate(probabilities) if q > limit * (1 + 1e-5)}
        possible = {i for i, q in enumerate(probabilities) if q >= limit * (1 - 1e-5)}
        assert certain <= ids <= possible
        assert ids


@pytest.mark.parametrize("vocab_size", [50, 1000, 3001])
def test_a_rows_outcome_does_not_depend_on_the_rows_beside_it(vocab_size):
    """Bit for bit, for every formula and any batch a row may be in."""
    logits = make_logits(vocab_size, 9)
    logits[3] /= 50  # a flat row, with a large nucleus
    generator = torch.Generator().manual_seed(2)
    top_k = torch.randint(1, vocab_size, (9,), generator=generator)
    top_p = torch.rand(9, generator=generator)
    min_p = torch.rand(9, generator=generator) / 20
    seeds = torch.arange(9) * 1000
    counts = torch.randint(0, 2, logits.shape, generator=generator, dtype=torch.int32)
    factors = torch.rand(3, 9, generator=generator) + 0.5

    def outcome(index):
        x = sampling.penalize(
            logits[index], counts[index], counts[index] > 0, *(f[index] for f in factors)
        )
        filters = (
            sampling.keep_top_k(x, top_k[index]),
            sampling.keep_top_p(x, top_p[index]),
            sampling.keep_min_p(x, min_p[index]),
        )
        ids = [gumbel.draw(y, seeds[index], seeds[index], seeds[index]) for y in filters]
        return torch.cat([x, *filters, torch.stack(ids, 1)], dim=1)

    together = outcome(torch.arange(9))
    for r in range(9):
        assert outcome(torch.tensor([r])).equal(together[r : r + 1])
    order = torch.tensor([8, 3, 0, 5])
    assert outcome(order).equal(together[order])
