"""Every GGML type of a tensor, through a whole GGUF file, against gguf-py."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type, GGUFEndian, GGUFReader, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

from engine.errors import LoadError
from engine.quant.block_format import block_format
from engine.weights.gguf import _place
from engine.weights.gguf_metadata import PLAIN_TYPES, read_gguf
from engine.weights.tensor_reader import TensorReader

PLAIN = {
    Type.F64: np.float64,
    Type.F32: np.float32,
    Type.F16: np.float16,
    Type.I64: np.int64,
    Type.I32: np.int32,
    Type.I16: np.int16,
    Type.I8: np.int8,
}
# gguf-py can neither unpack these nor, of Q8_1, count their bytes.
OWN = (Type.Q1_0, Type.Q8_1, Type.Q8_K)
PACKED = [t for t in GGML_QUANT_SIZES if t not in PLAIN_TYPES and t not in OWN]


def write(path, tensors, endian=GGUFEndian.LITTLE, alignment=None):
    """A file of these arrays; bytes come as (array, type)."""
    writer = GGUFWriter(path, "llama", endianess=endian)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for name, value in tensors.items():
        array, kind = value if isinstance(value, tuple) else (value, None)
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path):
    reader = TensorReader()
    tensors = read_gguf([path]).tensors
    return {name: reader.tensor(_place(tensor)).clone() for name, tensor in tensors.items()}


def some_rows(dtype):
    rng = np.random.default_rng(1)
    return (rng.normal(size=(3, 8)) * 50).astype(dtype)


def random_bytes(kind, rows=5, blocks=2):
    rng = np.random.default_rng(int(kind))
    shape = (rows, blocks * block_format(kind).num_bytes)
    return rng.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("endian", list(GGUFEndian), ids=lambda e: e.name)
def test_plain_types_are_read_as_they_are(tmp_path, endian):
    arrays = {kind.name: some_rows(dtype) for kind, dtype in PLAIN.items()}
    halves = torch.randn(3, 8).bfloat16()
    bits = halves.view(torch.int16).numpy()
    swapped = bits.byteswap() if endian is GGUFEndian.BIG else bits
    tensors = {**arrays, "BF16": (swapped.view(np.uint8), Type.BF16)}
    found = read(write(tmp_path / "x.gguf", tensors, endian))
    for name, array in arrays.items():
        assert torch.equal(found[name], torch.from_numpy(array)), name
    assert torch.equal(found["BF16"], halves)
    assert len(found) == len(PLAIN_TYPES)


@pytest.mark.parametrize("kind", PACKED, ids=lambda t: t.name)
def test_packed_types_are_unpacked_as_by_gguf_py(tmp_path, kind):
    path = write(tmp_path / "x.gguf", {"x": (random_bytes(kind), kind)})
    (theirs,) = GGUFReader(path).tensors
    with np.errstate(all="ignore"):
        expected = dequantize(theirs.data, kind)
    assert np.array_equal(read(path)["x"].numpy(), expected, equal_nan=True)


@pytest.mark.parametrize("kind", [Type.Q1_0, Type.Q8_K], ids=lambda t: t.name)
def test_types_that_gguf_py_cannot_unpack_are_unpacked(tmp_path, kind):
    blocks = random_bytes(kind)
    with np.errstate(all="ignore"):
        expected = block_format(kind).unpack(blocks.reshape(10, -1)).reshape(5, -1)
    found = read(write(tmp_path / "x.gguf", {"x": (blocks, kind)}))["x"]
    assert np.array_equal(found.numpy(), expected, equal_nan=True)


def test_q8_1_has_36_bytes_a_block_as_in_ggml(tmp_path):
    """gguf-py counts 40: 360 bytes are 10 blocks to ggml, and 9 of another size to gguf-py."""
    blocks = random_bytes(Type.Q8_1, rows=1, blocks=10)
    path = write(tmp_path / "x.gguf", {"x": (blocks, Type.Q8_1)})
    data = bytearray(path.read_bytes())
    place = data.index(b"x", 8 + data.index((1).to_bytes(8, "little") + b"x")) + 1 + 4
    assert int.from_bytes(data[place : place + 8], "little") == 9 * 32
    data[place : place + 8] = (10 * 32).to_bytes(8, "little")
    path.write_bytes(data)
    with np.errstate(all="ignore"):
        expected = block_format(Type.Q8_1).unpack(blocks.reshape(10, 36)).reshape(1, 320)
    assert np.array_equal(read(path)["x"].numpy(), expected, equal_nan=True)


def test_a_packed_tensor_of_a_big_endian_file_is_refused(tmp_path):
    blocks = {"x": (random_bytes(Type.Q8_0), Type.Q8_0)}
    path = write(tmp_path / "x.gguf", blocks, GGUFEndian.BIG)
    with pytest.raises(LoadError, match="is big-endian and x is packed as Q8_0; use the little-"):
        read_gguf([path])


def test_metadata_of_a_big_endian_file_is_read(tmp_path):
    path = write(tmp_path / "x.gguf", {"x": some_rows(np.float32)}, GGUFEndian.BIG)
    assert read_gguf([path]).metadata == {"general.architecture": "llama"}


@pytest.mark.parametrize("alignment", [1, 2, 4, 8, 64, 4096])
def test_any_power_of_two_will_do_as_alignment(tmp_path, alignment):
    tensors = {"a": some_rows(np.float16)[:, :3].copy(), "b": some_rows(np.float32)}
    path = write(tmp_path / "x.gguf", {"odd": np.ones(3, np.int8), **tensors}, alignment=alignment)
    found = read(path)
    assert torch.equal(found["a"], torch.from_numpy(tensors["a"]))
    assert torch.equal(found["b"], torch.from_numpy(tensors["b"]))


def test_a_tensor_without_elements_is_read(tmp_path):
    path = write(tmp_path / "x.gguf", {"none": np.zeros((0, 4), np.float32), "one": np.ones(1)})
    found = read(path)
    assert found["none"].shape == (0, 4)
    assert found["one"].tolist() == [1.0]


@pytest.mark.parametrize("raw_type", [4, 31, 36, 200])
def test_a_type_that_is_not_known_is_named_with_its_tensor(tmp_path, raw_type):
    path = write(tmp_path / "x.gguf", {"x": some_rows(np.float32)})
    data = bytearray(path.read_bytes())
    place = data.index((1).to_bytes(8, "little") + b"x") + 9 + 4 + 2 * 8
    data[place : place + 4] = raw_type.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(LoadError, match=f"x has the tensor type {raw_type}, which was removed"):
        read_gguf([path])
