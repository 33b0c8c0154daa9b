"""Chosen quads of uniforms: on every path the same bits as the whole rows."""

import pytest
import torch

from kernels import ops
from kernels.reference.philox import uniform
from kernels.reference.uniform_quads import uniform_quads

SEEDS = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 0x123456789ABCDEF])
CHOICES = torch.tensor([0, 1, -2, 127, 2**31, 2**40 + 3])
POSITIONS = torch.tensor([0, 1, 4095, 2**31 - 1, 2**31, 2**32 + 5])
NUM_QUADS = 50


def chosen(num, generator):
    """Rows and quads in any order, repeated ones among them."""
    rows = torch.randint(len(SEEDS), (num,), generator=generator)
    return rows, torch.randint(NUM_QUADS, (num,), generator=generator)


@pytest.mark.parametrize("num", [0, 1, 7, 257, 20_000])
@pytest.mark.parametrize("path", [uniform_quads, ops.uniform_quads], ids=["reference", "cpu"])
def test_quads_are_parts_of_the_rows(path, num, generator):
    rows, quads = chosen(num, generator)
    whole = uniform(SEEDS, CHOICES, POSITIONS, 4 * NUM_QUADS).view(-1, NUM_QUADS, 4)
    assert path(SEEDS, CHOICES, POSITIONS, rows, quads).equal(whole[rows, quads])


@pytest.mark.parametrize("num", [0, 1, 257, 600])
def test_kernel_equals_reference_bit_for_bit(num, device, launcher, generator):
    tensors = (SEEDS, CHOICES, POSITIONS, *chosen(num, generator))
    result = launcher("uniform_quads")(*(tensor.to(device) for tensor in tensors))
    assert result.cpu().equal(uniform_quads(*tensors))


def test_launcher_names_what_it_got_and_expected(launcher):
    rows = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"shape of quads: got \(2,\), expected \(3,\)"):
        launcher("uniform_quads")(SEEDS, CHOICES, POSITIONS, rows, rows[:2])
