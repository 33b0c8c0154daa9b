"""Every path of the C++ library that this machine can run: the same bits from all of them."""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from kernels.cpu.native.attention import attention_call
from kernels.cpu.native.bindings import Library, load_library
from kernels.cpu.native.build import build
from kernels.cpu.native.instructions import AVX2, PATHS, Instructions
from tests.kernels.packed_blocks import KINDS, name_of, random_matrix, tiled

NUM_ROWS, NUM_COLUMNS = 37, 512
QUICK = (Type.Q4_0, Type.Q8_0)  # codes that are small, and those that take all of a byte


@pytest.fixture(scope="module")
def own() -> Library:
    """What this machine runs."""
    found = load_library()
    if found is None:
        pytest.skip("no compiler")
    return found


def library_of(path: Instructions, folder: Path, kinds: tuple[int, ...]) -> Library:
    if not path.can_run:
        pytest.skip(f"this processor has no {path.name}")
    formats = [] if kinds == KINDS else [name_of(kind) for kind in kinds]
    library = Library(build(folder, instructions=path, formats=formats))
    assert library.path == path.name
    return library


def inputs(generator: torch.Generator) -> torch.Tensor:
    """Ordinary ones, and what makes the largest sums of all."""
    x = torch.randn(21, NUM_COLUMNS, generator=generator)
    x[3], x[4] = 1.0, -1.0
    return x


def check_products(own: Library, library: Library, kind: int, x: torch.Tensor) -> None:
    matrix = random_matrix(kind, NUM_ROWS, NUM_COLUMNS)
    ours, theirs = (tiled(each, matrix) for each in (library, own))
    assert ours.data.equal(theirs.data)
    for is_exact in (True, False):
        expected = own.linear(x, [theirs], is_exact)
        assert library.linear(x, [ours], is_exact).equal(expected)
        assert library.linear(x[:1], [ours], is_exact).equal(expected[:1])
    indices = torch.tensor([36, 0, 17])
    assert library.rows(ours, indices).equal(own.rows(theirs, indices))


def check_operators(own: Library, library: Library, generator: torch.Generator) -> None:
    x, residual = torch.randn(2, 3, 70, generator=generator)
    ours = library.rms_norm(x, residual, torch.ones(70), 1e-6)
    assert ours[0].equal(own.rms_norm(x, residual, torch.ones(70), 1e-6)[0])
    gate_up = torch.randn(3, 128, generator=generator)
    for is_gelu in (True, False):
        torch.testing.assert_close(library.gate(gate_up, is_gelu), own.gate(gate_up, is_gelu))
    for num_rows in (1, 40):
        attended, expected = (attend(each, num_rows) for each in (library, own))
        torch.testing.assert_close(attended, expected, rtol=1e-5, atol=1e-6)


def attend(library: Library, num_rows: int) -> torch.Tensor:
    """The last rows of a sequence of 131 tokens."""
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(num_rows, 6, 80, generator=generator)
    keys, values = torch.randn(2, 9, 16, 2, 80, generator=generator)
    table, output = torch.arange(9, dtype=torch.int32)[None], torch.empty_like(query)
    starts, lengths = (torch.tensor(n, dtype=torch.int32) for n in ([0, num_rows], [131]))
    ends, sequences = (query.flatten(1), output), (table, starts, lengths)
    library.attention(attention_call(ends, 6, (keys, values), sequences, 0.125, 100, 0.0))
    return output


@pytest.mark.timeout(120)  # it compiles
def test_avx2_has_the_bits_of_this_machines_own_path(own, tmp_path, generator):
    library = library_of(AVX2, tmp_path, QUICK)
    for kind in QUICK:
        check_products(own, library, kind, inputs(generator))
    check_operators(own, library, generator)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_every_path_has_the_bits_of_this_machines_own(own, path, tmp_path, generator):
    library = library_of(path, tmp_path, KINDS)
    for kind in KINDS:
        check_products(own, library, kind, inputs(generator))
    check_operators(own, library, generator)
