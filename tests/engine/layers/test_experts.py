"""Experts against a loop over tokens in float64."""

import pytest
import torch

from engine.config import ModelConfig
from engine.layers.experts import Experts
from tests.engine.models import tiny

HIDDEN, INNER, NUM_EXPERTS = 24, 20, 7


@pytest.fixture(params=[(1, True), (3, True), (3, False), (7, False)], ids=str)
def experts(request):
    num_chosen, is_normalised = request.param
    config = ModelConfig(
        architecture="",
        vocab_size=8,
        hidden_size=HIDDEN,
        intermediate_size=99,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        context_length=8,
        num_experts=NUM_EXPERTS,
        num_experts_per_token=num_chosen,
        expert_intermediate_size=INNER,
        is_topk_normalised=is_normalised,
    )
    block = Experts(config, torch.float32, torch.device("cpu"))
    tiny.randomise(block)
    return block


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def by_token(experts, row):
    """One token in float64, expert by expert."""
    router, gate_up, down = (
        weight.double()
        for weight in (experts.router.weight, experts.gate_up_proj, experts.down_proj)
    )
    shares = torch.softmax(router @ row, dim=0)
    chosen = sorted(range(NUM_EXPERTS), key=lambda e: -shares[e])[: experts.num_chosen]
    total = sum(shares[e] for e in chosen) if experts.is_normalised else 1.0
    result = torch.zeros(HIDDEN, dtype=torch.float64)
    for e in chosen:
        gate, up = gate_up[e][:INNER] @ row, gate_up[e][INNER:] @ row
        result += shares[e] / total * (down[e] @ (gate * torch.sigmoid(gate) * up))
    return result


@pytest.mark.parametrize("num_tokens", [1, 2, 33])
def test_a_token_gets_the_weighted_sum_of_its_experts(experts, num_tokens, generator):
    x = torch.randn(num_tokens, HIDDEN, generator=generator)
    expected = torch.stack([by_token(experts, row.double()) for row in x])
    torch.testing.assert_close(experts(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_no_tokens_give_no_rows(experts):
    assert experts(torch.empty(0, HIDDEN)).shape == (0, HIDDEN)


def test_a_token_does_not_depend_on_its_neighbours(experts, generator):
    x = torch.randn(40, HIDDEN, generator=generator)
    alone = torch.cat([experts(row[None]) for row in x])
    torch.testing.assert_close(experts(x), alone, rtol=1e-5, atol=1e-5)
    order = torch.randperm(40, generator=generator)
    torch.testing.assert_close(experts(x[order]), alone[order], rtol=1e-5, atol=1e-5)
