"""Attention of whole sequences: the reference against float64, both fast paths against it."""

from typing import NamedTuple

import pytest
import torch

from kernels.cpu.varlen_attention import varlen_attention as cpu_varlen_attention
from kernels.reference.varlen_attention import varlen_attention as reference_varlen_attention


class Case(NamedTuple):
    """The lengths of a batch's sequences, and the model's shape."""

    lengths: list[int]
    heads: tuple[int, int, int]  # query heads, KV heads, head dimension
    window: int = 0


CASES = {
    "one-token": Case([1], (2, 2, 16)),
    "one-sequence": Case([70], (4, 4, 64)),
    "several": Case([50, 1, 33, 9, 71], (4, 4, 32)),
    "empty-among": Case([0, 20, 0, 0, 7, 0], (2, 2, 32)),
    "groups": Case([37, 5], (6, 2, 24)),
    "odd-dim": Case([37, 20], (2, 2, 80)),
    "window": Case([90, 3, 40], (4, 2, 32), window=11),
    "window-1": Case([20, 9], (2, 2, 16), window=1),
    "wide-window": Case([20, 9], (2, 2, 16), window=1000),
}


def build(case, dtype, generator):
    """The arguments; query, key and value are views of one projection, as the engine has it."""
    num_heads, num_kv_heads, dim = case.heads
    total = sum(case.lengths)
    qkv = torch.randn(total, num_heads + 2 * num_kv_heads, dim, generator=generator).to(dtype)
    query, key, value = qkv.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    starts = torch.tensor([0, *case.lengths]).cumsum(0).int()
    return query, key, value, starts, dim**-0.5, case.window


def plain_attention(query, key, value, starts, scale, window):
    """In float64, over all tokens at once: those of other sequences are masked away."""
    query, key, value = (x.double().transpose(0, 1) for x in (query, key, value))
    groups = len(query) // len(key)
    owner = torch.repeat_interleave(torch.arange(len(starts) - 1), starts.diff())
    place = torch.arange(len(owner))
    visible = owner[:, None] == owner
    if window:
        visible &= (place[:, None] - place).abs() <= window
    scores = query @ key.repeat_interleave(groups, 0).transpose(1, 2) * scale
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return (weights @ value.repeat_interleave(groups, 0)).transpose(0, 1)


cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@cases
def test_reference_and_cpu_path_agree_with_plain_attention(case, generator):
    arguments = build(case, torch.float32, generator)
    expected = plain_attention(*arguments)
    for attend in (reference_varlen_attention, cpu_varlen_attention):
        torch.testing.assert_close(attend(*arguments).double(), expected, rtol=1e-5, atol=1e-5)


@cases
def test_the_kernel_agrees_with_the_reference(case, dtype, tolerance, generator, launcher, device):
    arguments = build(case, dtype, generator)
    expected = reference_varlen_attention(*arguments)
    moved = (x.to(device) if isinstance(x, torch.Tensor) else x for x in arguments)
    actual = launcher("varlen_attention")(*moved)
    torch.testing.assert_close(actual.cpu(), expected, **tolerance)


def test_arguments_that_do_not_fit_are_refused(launcher, generator, device):
    query, key, value, starts, *rest = (
        x.to(device) if isinstance(x, torch.Tensor) else x
        for x in build(CASES["several"], torch.float32, generator)
    )
    launch = launcher("varlen_attention")
    with pytest.raises(ValueError, match="value"):
        launch(query, key, value[:, :1], starts, *rest)
    with pytest.raises(ValueError, match="starts"):
        launch(query, key, value, starts.long(), *rest)
