"""The sampling random source on a CPU: in C++ and in numpy the same bits as the reference."""

import pytest
import torch

from kernels.cpu import philox as cpu_philox, uniform_quads as cpu_uniform_quads
from kernels.cpu.native.bindings import load_library
from kernels.reference.philox import uniform
from kernels.reference.uniform_quads import uniform_quads

SEEDS = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 0x123456789ABCDEF])
CHOICES = torch.tensor([0, 1, -2, 127, 2**31, 2**40 + 3])
POSITIONS = torch.tensor([0, 1, 4095, 2**31 - 1, 2**31, 2**32 + 5])
KEYS = (SEEDS, CHOICES, POSITIONS)


@pytest.fixture(params=["native", "without a library"])
def path(request, monkeypatch):
    library = load_library() if request.param == "native" else None
    if request.param == "native" and library is None:
        pytest.skip("no compiler")
    for module in (cpu_philox, cpu_uniform_quads):
        monkeypatch.setattr(module, "loaded_library", lambda: library)
    return request.param


@pytest.mark.parametrize("num", [0, 1, 3, 4, 63, 64, 65, 4097], ids=str)
def test_whole_rows_are_the_references(path, num):
    result = cpu_philox.uniform(*KEYS, num)
    assert result.shape == (len(SEEDS), num)
    assert result.equal(uniform(*KEYS, num))


@pytest.mark.parametrize("num", [0, 1, 15, 16, 17, 9001], ids=str)
def test_chosen_quads_are_the_references(path, num, generator):
    rows = torch.randint(len(SEEDS), (num,), generator=generator)
    quads = torch.randint(1 << 31, (num,), generator=generator)
    result = cpu_uniform_quads.uniform_quads(*KEYS, rows, quads)
    assert result.equal(uniform_quads(*KEYS, rows, quads))


def test_keys_that_are_columns_of_a_table_are_taken_as_they_are(path):
    seeds, choices, positions = torch.stack(KEYS, dim=1).unbind(1)
    assert cpu_philox.uniform(seeds, choices, positions, 9).equal(uniform(*KEYS, 9))
    rows = torch.arange(len(SEEDS))
    result = cpu_uniform_quads.uniform_quads(seeds, choices, positions, rows, rows)
    assert result.equal(uniform_quads(*KEYS, rows, rows))
