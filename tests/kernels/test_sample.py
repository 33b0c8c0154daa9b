"""Sampling: the reference against plain probabilities, the engine's formulas and the kernel."""

import math

import pytest
import torch

from engine import sampling
from engine.gumbel import draw
from kernels.reference.sample import sample

# temperature, top_k, top_p, min_p
SETTINGS = {
    "greedy": (0.0, 0, 1.0, 0.0),
    "plain": (1.0, 0, 1.0, 0.0),
    "top-k": (0.8, 5, 1.0, 0.0),
    "top-1": (1.3, 1, 1.0, 0.0),
    "top-k-of-all": (1.0, 10_000, 1.0, 0.0),
    "top-p": (0.9, 0, 0.6, 0.0),
    "top-p-none": (0.9, 0, 0.0, 0.0),
    "min-p": (1.1, 0, 1.0, 0.2),
    "min-p-one": (1.1, 0, 1.0, 1.0),
    "top-k-top-p": (1.5, 20, 0.7, 0.0),
    "all": (1.2, 30, 0.9, 0.05),
}


def parameters(settings, num_rows):
    """The arguments after the logits: each row has settings of the list, and keys of its own."""
    rows = [settings[row % len(settings)] for row in range(num_rows)]
    temperatures, top_k, top_p, min_p = map(torch.tensor, zip(*rows, strict=True))
    index = torch.arange(num_rows)
    keys = (index * 7919 - 5, index % 3, index * 13 + 2**33)
    return (temperatures, top_k, top_p, min_p, *keys)


def make_logits(num_rows, size, generator):
    """Logits with ties, as bfloat16 makes them."""
    return (3 * torch.randn(num_rows, size, generator=generator)).bfloat16().float()


def probabilities(logits, setting):
    """Of one row, in float64 and plain Python: filters by sorting, tokens that tie together."""
    temperature, top_k, top_p, min_p = setting
    scaled = [x / temperature for x in logits.double().tolist()]
    kept = sorted(set(range(len(scaled))), key=lambda i: -scaled[i])
    if 0 < top_k < len(kept):
        bound = scaled[kept[top_k - 1]]
        kept = [i for i in kept if scaled[i] >= bound]
    weights = [math.exp(scaled[i] - scaled[kept[0]]) for i in kept]
    mass = sum(weights)
    above = {
        scaled[i]: sum(w for w in weights if w > weight)
        for i, weight in zip(kept, weights, strict=True)
    }
    kept = [i for i in kept if above[scaled[i]] < top_p * mass or i == kept[0]]
    kept = [i for i in kept if math.exp(scaled[i] - scaled[kept[0]]) >= min_p]
    result = torch.zeros(len(scaled), dtype=torch.float64)
    result[kept] = torch.tensor([math.exp(scaled[i] - scaled[kept[0]]) for i in kept]).double()
    return result / result.sum()


@pytest.fixture
def launch(launcher, device):
    def run(*arguments):
        return launcher("sample")(*(part.to(device) for part in arguments)).cpu()

    return run


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "greedy"])
def test_draws_have_the_probabilities_that_the_filters_leave(name, generator):
    logits, num_rows = make_logits(1, 60, generator), 4000
    setting = SETTINGS[name]
    ids = sample(logits.expand(num_rows, -1), *parameters([setting], num_rows))
    expected = num_rows * probabilities(logits[0], setting)
    counts = torch.bincount(ids, minlength=60).double()
    assert not counts[expected == 0].any()
    likely = expected > 5
    degrees = int(likely.sum())
    chi_square = ((counts - expected)[likely].square() / expected[likely]).sum()
    assert chi_square < degrees + 5 * math.sqrt(2 * degrees)


def test_greedy_is_the_lowest_of_the_largest():
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0], [3.0, -1.0, 3.0, 3.0]])
    assert sample(logits, *parameters([(0.0, 2, 0.5, 0.5)], 2)).tolist() == [1, 0]


def test_the_outcome_is_that_of_the_engines_formulas(generator):
    logits = make_logits(len(SETTINGS), 500, generator)
    arguments = parameters(list(SETTINGS.values()), len(SETTINGS))
    temperatures, top_k, top_p, min_p, *keys = arguments
    ids = sample(logits, *arguments)
    for row in range(len(logits)):
        one = slice(row, row + 1)
        if temperatures[row] == 0:
            assert ids[row] == sampling.best(logits[one])
            continue
        scaled = logits[one] / temperatures[one, None]
        if 0 < top_k[row] < 500:
            scaled = sampling.keep_top_k(scaled, top_k[one])
        scaled = sampling.keep_top_p(scaled, top_p[one])
        if min_p[row] > 0:
            scaled = sampling.keep_min_p(scaled, min_p[one])
        assert ids[row] == draw(scaled, *(key[one] for key in keys))


@pytest.mark.parametrize("size", [1, 1025, 9001])
def test_kernel_draws_what_the_reference_draws(size, generator, launch):
    settings = list(SETTINGS.values())
    logits = make_logits(len(settings), size + 3, generator)[:, :size]
    arguments = parameters(settings, len(logits))
    assert launch(logits, *arguments).equal(sample(logits, *arguments))


def test_flat_rows_and_forbidden_tokens_are_drawn_as_well(generator, launch):
    flat = torch.zeros(4, 300)
    forbidden = make_logits(4, 300, generator)
    forbidden[:, 7:] = -torch.inf
    logits = torch.cat([flat, forbidden])
    arguments = parameters([SETTINGS["all"], SETTINGS["top-p"], SETTINGS["plain"]], 8)
    ids = launch(logits, *arguments)
    assert ids.equal(sample(logits, *arguments))
    assert ids[4:].max() < 7


def test_a_row_depends_on_no_other_row(generator, launch):
    logits = make_logits(5, 700, generator)
    arguments = parameters([SETTINGS["all"], SETTINGS["plain"]], 5)
    together = launch(logits, *arguments)
    alone = [launch(logits[r : r + 1], *(part[r : r + 1] for part in arguments)) for r in range(5)]
    assert torch.cat(alone).equal(together)


def test_no_rows_give_no_ids(launch):
    assert launch(
        torch.empty(0, 5), *(part[:0] for part in parameters([(1.0, 0, 1.0, 0.0)], 1))
    ).equal(torch.empty(0, dtype=torch.int64))


@pytest.mark.parametrize(
    ("position", "wrong", "complaint"),
    [
        (0, torch.ones(2, 5).half(), "dtype of logits: got torch.float16, expected torch.float32"),
        (0, torch.ones(2, 0), "columns of logits: got 0, expected a token at least"),
        (2, torch.ones(2).int(), "dtype of top_k: got torch.int32, expected torch.int64"),
        (3, torch.ones(3), r"shape of top_p: got \(3,\), expected \(2,\)"),
    ],
    ids=["logits", "empty", "top-k", "top-p"],
)
def test_launcher_names_what_it_got_and_expected(position, wrong, complaint, launch):
    arguments = [torch.ones(2, 5), *parameters([SETTINGS["all"]], 2)]
    arguments[position] = wrong
    with pytest.raises(ValueError, match=complaint):
        launch(*arguments)
