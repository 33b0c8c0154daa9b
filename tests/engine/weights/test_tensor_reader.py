"""Reading stretches of files as tensors: in pieces, swapped, off any boundary, and given back."""

import mmap
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

from engine.errors import LoadError
from engine.quant.block_format import block_format
from engine.weights.mapped_files import MappedFiles
from engine.weights.tensor_reader import Place, TensorReader

PIECE = 1 << 22


def write(path, array, offset=0):
    path.write_bytes(bytes(offset) + np.ascontiguousarray(array).tobytes())
    return path


def mapped_bytes(path):
    """How much of a file is in this process's memory now."""
    text = Path("/proc/self/smaps").read_text()
    _, _, region = text.partition(f"{path}\n")
    return int(region.partition("Rss:")[2].split()[0]) * 1024 if region else 0


def test_a_large_tensor_comes_in_pieces_without_a_seam(tmp_path):
    rows = np.arange(10_000 * 1000, dtype=np.int32).reshape(10_000, 1000)
    place = Place(rows.shape, write(tmp_path / "x", rows), 0, torch.int32)
    pieces = [piece.clone() for piece in TensorReader().pieces(place)]
    assert [len(piece) for piece in pieces] == [PIECE // 1000] * 2 + [10_000 - 2 * (PIECE // 1000)]
    assert torch.equal(torch.cat(pieces), torch.from_numpy(rows))


@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_large_packed_tensor_comes_in_pieces_without_a_seam(tmp_path, num_threads):
    form = block_format(Type.Q4_0)
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 60, (5000, 32 * form.num_bytes), dtype=np.uint8)
    place = Place((5000, 1024), write(tmp_path / "x", packed), 0, form)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        reader = TensorReader()
    finally:
        torch.set_num_threads(before)
    pieces = [piece.clone() for piece in reader.pieces(place)]
    expected = torch.from_numpy(dequantize(packed, Type.Q4_0))
    assert len(pieces) == 2
    assert torch.equal(torch.cat(pieces), expected)
    assert torch.equal(reader.tensor(place), expected)


def test_rows_longer_than_a_piece_come_one_by_one(tmp_path):
    rows = np.ones((3, 1, PIECE + 1), dtype=np.int8)
    place = Place(rows.shape, write(tmp_path / "x", rows), 0, torch.int8)
    assert [p.shape for p in TensorReader().pieces(place)] == [(1, 1, PIECE + 1)] * 3


@pytest.mark.parametrize("shape", [(), (5,), (0,), (0, 3), (3, 0)])
def test_small_and_empty_tensors_are_one_piece(tmp_path, shape):
    array = np.full(shape, 2.5)
    place = Place(shape, write(tmp_path / "x", array, offset=16), 16, torch.float64)
    (piece,) = TensorReader().pieces(place)
    assert torch.equal(piece, torch.full(shape, 2.5, dtype=torch.float64))


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4097])
@pytest.mark.parametrize("is_swapped", [False, True])
def test_numbers_may_lie_anywhere_and_be_swapped(tmp_path, offset, is_swapped):
    array = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)
    stored = array.byteswap() if is_swapped else array
    path = write(tmp_path / "x", stored, offset)
    place = Place((4, 6), path, offset, torch.float32, is_swapped)
    reader = TensorReader()
    assert torch.equal(reader.tensor(place), torch.from_numpy(array))
    assert torch.equal(torch.cat(list(reader.pieces(place))), torch.from_numpy(array))


def test_only_the_latest_stretch_of_a_file_stays_in_memory(tmp_path):
    rows = np.ones((24, 1 << 20), dtype=np.int8)
    path = write(tmp_path / "x", rows)
    reader = TensorReader()
    piece_bytes, spare_bytes = 4 << 20, 4 << 20  # the kernel maps some pages around those touched
    for piece in reader.pieces(Place(rows.shape, path, 0, torch.int8)):
        assert piece.sum() == piece.numel() == piece_bytes
        assert piece_bytes <= mapped_bytes(path) < piece_bytes + spare_bytes
    for row in range(0, 24, 4):
        assert reader.tensor(Place((4 << 20,), path, row << 20, torch.int8)).sum() == 4 << 20
        assert mapped_bytes(path) < piece_bytes + spare_bytes


def test_a_stretch_that_was_given_back_can_be_read_again(tmp_path):
    array = np.arange(3 * mmap.PAGESIZE, dtype=np.uint8)
    path = write(tmp_path / "x", array)
    files = MappedFiles()
    data = files.read(path, 100, 2 * mmap.PAGESIZE)
    files.release(path, 100, 2 * mmap.PAGESIZE)
    assert np.array_equal(data, array[100 : 100 + 2 * mmap.PAGESIZE])


def test_a_file_that_is_too_short_or_not_there_is_an_error_of_ours(tmp_path):
    path = write(tmp_path / "x", np.ones(10, np.uint8))
    with pytest.raises(LoadError, match="became shorter while it was read"):
        MappedFiles().read(path, 5, 6)
    for name, data in (("none", None), ("empty", b"")):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(LoadError, match=f"{name} cannot be read"):
            MappedFiles().read(tmp_path / name, 0, 1)
