"""The C++ library's NEON paths, run under an emulator, against this machine's own path."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.cpu.native.attention import attention_call
from kernels.cpu.native.bindings import Library, load_library
from kernels.cpu.native.build import build
from kernels.cpu.native.instructions import NEON, NEON_DOTPROD, NEON_I8MM
from tests.kernels.packed_blocks import KINDS, random_matrix, tiled

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
SYSTEM = "/usr/aarch64-linux-gnu"  # where Debian's cross compiler has its libraries
DRIVER = Path(__file__).with_name("native_driver.cpp")
NUM_ROWS, NUM_COLUMNS = 37, 512

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]  # they compile


class Emulated:
    """A library for another processor, called in a process for each call."""

    def __init__(self, folder: Path, instructions) -> None:
        library = build(folder, [COMPILER], instructions)
        self._program = str(library.with_suffix(""))
        flags = ["-std=c++20", "-O1", str(DRIVER), str(library), f"-Wl,-rpath,{folder}"]
        subprocess.run([COMPILER, *flags, "-o", self._program], check=True)

    def __call__(self, *arguments: str | int, data: bytes = b"") -> bytes:
        words = [EMULATOR, "-cpu", "max", "-L", SYSTEM, self._program, *map(str, arguments)]
        return subprocess.run(words, input=data, stdout=subprocess.PIPE, check=True).stdout

    def floats(self, *arguments: str | int, data: list[torch.Tensor]) -> torch.Tensor:
        answer = self(*arguments, data=b"".join(tensor.numpy().tobytes() for tensor in data))
        return torch.from_numpy(np.frombuffer(answer, dtype=np.float32).copy())


@pytest.fixture(scope="module", params=[NEON, NEON_DOTPROD, NEON_I8MM], ids=lambda path: path.name)
def emulated(request, tmp_path_factory) -> Emulated:
    for program in (COMPILER, EMULATOR):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} (Debian: g++-aarch64-linux-gnu and qemu-user)")
    found = Emulated(tmp_path_factory.mktemp("neon"), request.param)
    assert found("path").decode() == request.param.name
    return found


@pytest.fixture(scope="module")
def library() -> Library:
    found = load_library()
    if found is None:
        pytest.skip("no compiler")
    return found


def check_product(emulated, library, kind: int, is_exact: bool) -> None:
    matrix = random_matrix(kind, NUM_ROWS, NUM_COLUMNS)
    inputs = torch.randn(13, NUM_COLUMNS, generator=torch.Generator().manual_seed(1))
    numbers = (int(kind), matrix.data.shape[1], NUM_ROWS, NUM_COLUMNS, len(inputs), int(is_exact))
    answer = emulated.floats("linear", *numbers, data=[matrix.data, inputs])
    weights, product = answer.split([NUM_ROWS * NUM_COLUMNS, len(inputs) * NUM_ROWS])
    tiles = tiled(library, matrix)
    assert weights.equal(library.rows(tiles, torch.arange(NUM_ROWS)).flatten())
    assert product.equal(library.linear(inputs, [tiles], is_exact).flatten())


def test_products_are_this_machines_to_the_bit(emulated, library):
    for kind in KINDS:
        for is_exact in (True, False):
            check_product(emulated, library, kind, is_exact)


def test_norms_are_this_machines_to_the_bit(emulated, library, generator):
    x, residual, weight = torch.randn(7, 70, generator=generator).split([3, 3, 1])
    answer = emulated.floats("norm", 3, 70, data=[x, residual, weight])
    hidden, normed = answer.view(2, 3, 70)
    expected = library.rms_norm(x, residual, weight[0], 1e-6)
    assert hidden.equal(expected[1])
    assert normed.equal(expected[0])


@pytest.mark.parametrize("head_dim", [64, 80])
def test_attention_is_this_machines(head_dim, emulated, library, generator):
    query = torch.randn(1, 6, head_dim, generator=generator)
    keys, values = torch.randn(2, 9, 16, 2, head_dim, generator=generator)
    answer = emulated.floats("decode", 131, 16, 2, 6, head_dim, data=[query, keys, values])
    expected = torch.empty_like(query)
    table, ends = torch.arange(9, dtype=torch.int32)[None], (query.flatten(1), expected)
    starts, lengths = (torch.tensor(n, dtype=torch.int32) for n in ([0, 1], [131]))
    sequences = (table, starts, lengths)
    library.attention(attention_call(ends, 6, (keys, values), sequences, 0.125, 0, 0.0))
    torch.testing.assert_close(answer, expected.flatten(), rtol=1e-5, atol=1e-6)
