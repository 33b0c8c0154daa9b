"""Draws: their distribution, and that those with bounds are the plain formula's."""

import math

import pytest
import torch

from engine import gumbel, sampling
from kernels.ops import uniform, uniform_quads


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def draws(row, num_draws, seed=3):
    positions = torch.arange(num_draws)
    seeds = torch.full((num_draws,), seed)
    return gumbel.draw(row.expand(num_draws, -1), seeds, torch.zeros_like(seeds), positions)


def test_draws_follow_the_softmax(generator):
    row = torch.randn(12, generator=generator)
    num_draws = 20_000
    counts = torch.bincount(draws(row, num_draws), minlength=12).tolist()
    expected = [num_draws * p for p in row.double().softmax(0).tolist()]
    statistic = sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True))
    assert statistic < 31.3  # chi-square, 11 degrees of freedom, p = 0.001; the seed is fixed


def test_a_masked_token_is_never_drawn(generator):
    row = torch.randn(12, generator=generator) * 0.1
    row[4] = -math.inf
    assert 4 not in draws(row, 5000).tolist()


def test_draws_of_different_keys_are_independent():
    row = torch.zeros(16)
    num = 8000
    keys = torch.arange(num)
    zeros = torch.zeros_like(keys)
    rows = row.expand(num, -1)
    by_seed = gumbel.draw(rows, keys, zeros, zeros)
    by_choice = gumbel.draw(rows, zeros, keys, zeros)
    by_position = gumbel.draw(rows, zeros, zeros, keys)
    for a, b in [(by_seed, by_choice), (by_choice, by_position), (by_position, by_seed)]:
        table = torch.bincount(a * 16 + b, minlength=256).double()
        statistic = float(((table - num / 256) ** 2 / (num / 256)).sum())
        # 255 degrees of freedom, p = 0.999 and 0.001; not twins either
        assert 170 < statistic < 331


def plainly(logits, seeds, choices, positions):
    """The formula, with the noise of every token."""
    noise = -(-uniform(seeds, choices, positions, logits.shape[-1]).log()).log()
    return (logits + noise).numpy().argmax(-1).tolist()


def keys(num_rows, start=0):
    index = torch.arange(num_rows) + start
    return index * 7919 - 5, index % 3, index * 31


def peaked(rows, height):
    """One token of each row stands `height` above the rest of its best."""
    rows[torch.arange(len(rows)), torch.arange(len(rows)) * 13 % rows.shape[1]] = (
        rows.amax(-1) + height
    )
    return rows


def keep(rows, num):
    return sampling.keep_top_k(rows, torch.full((len(rows),), min(num, rows.shape[1])))


SHAPES = {
    "flat": lambda rows: rows * 0.1,
    "spread": lambda rows: rows * 3,
    "wide": lambda rows: rows * 8,
    "peaked": lambda rows: peaked(rows * 2, 6.0),
    "very peaked": lambda rows: peaked(rows * 2, 40.0),
    "cold": lambda rows: rows * 3e7,
    "huge and close": lambda rows: rows + 3e7,
    "few left": lambda rows: keep(rows, 9),
    "one left": lambda rows: keep(rows, 1),
    "ties": lambda rows: rows.round() * 9,
    "all equal": lambda rows: rows * 0,
    "at the bound": lambda rows: peaked(torch.zeros_like(rows), 16.7 + 2.0),
    "infinite": lambda rows: rows.masked_fill(rows > 1.5, math.inf),
    "nothing left": lambda rows: torch.full_like(rows, -math.inf),
    "not a number": lambda rows: rows.masked_fill(rows > 2.0, math.nan) * 9,
}


@pytest.mark.parametrize("vocab_size", [1, 3, 8, 50, 1001, 40_000])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_bounds_change_no_draw(shape, vocab_size, generator):
    num_rows = 6 if vocab_size > 1001 else 40
    for trial in range(3):
        rows = torch.randn(num_rows, vocab_size, generator=generator)
        logits, where = shape(rows), keys(num_rows, trial * 1000)
        assert gumbel.draw(logits, *where).tolist() == plainly(logits, *where)


def test_most_noise_of_a_peaked_row_is_not_computed(monkeypatch, generator):
    num_quads = []

    def watched(*args):
        num_quads.append(len(args[-1]))
        return uniform_quads(*args)

    monkeypatch.setattr(gumbel, "uniform_quads", watched)
    monkeypatch.setattr(gumbel, "uniform", None)
    logits = peaked(torch.randn(2, 40_000, generator=generator), 20.0)
    gumbel.draw(logits, *keys(2))
    assert sum(num_quads) < 100


def test_no_noise_exceeds_the_bound():
    """All uniforms that there are."""
    uniforms = (torch.arange(1 << 23).float() + 0.5) * 2.0**-23
    noise = gumbel.gumbel_noise(uniforms)
    assert noise.isfinite().all()
    assert 16.6 < noise.max() < gumbel._MAX_NOISE


def test_the_noise_of_a_uniform_does_not_depend_on_where_it_stands(generator):
    """Vector units do several at a time and the rest otherwise; draws need the same bits."""
    uniforms = torch.rand(5000, generator=generator).clamp(min=2.0**-24)
    noise = gumbel.gumbel_noise(uniforms)
    for start, size in [(0, 1), (1, 3), (5, 17), (7, 64), (3, 1000), (11, 4321)]:
        part = uniforms[start : start + size].clone()
        assert gumbel.gumbel_noise(part).equal(noise[start : start + size])
