"""GGUF headers against gguf-py's own reader, and damaged files."""

import struct
import tracemalloc

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import quantize

from engine.errors import LoadError
from engine.weights.gguf_metadata import read_gguf


@pytest.fixture
def path(tmp_path):
    """A file with every type of value and some types of tensor."""
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    for bits in (8, 16, 32, 64):
        getattr(writer, f"add_uint{bits}")(f"u{bits}", 2**bits - 1)
        getattr(writer, f"add_int{bits}")(f"i{bits}", -(2 ** (bits - 1)))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 1 / 3)
    writer.add_bool("yes", True)
    writer.add_string("text", "Grüße, 世界")
    writer.add_array("numbers", [1, 2, 3])
    writer.add_array("reals", [0.25, -1.5])
    writer.add_array("words", ["a", "", "▁ß"])
    rows = np.arange(128, dtype=np.float32).reshape(2, 64)
    writer.add_tensor("plain", rows)
    kind = GGMLQuantizationType.Q8_0
    writer.add_tensor("packed", quantize(rows, kind), raw_dtype=kind)
    writer.add_tensor("row", np.ones(3, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_is_what_gguf_pys_reader_finds(path, version):
    data = bytearray(path.read_bytes())
    data[4] = version
    path.write_bytes(data)
    fields = GGUFReader(path).fields
    expected = {key: field.contents() for key, field in fields.items() if "GGUF." not in key}
    assert read_gguf([path]).metadata == expected
    assert len(expected) > 15


def test_tensors_lie_where_gguf_pys_reader_finds_them(path):
    ours = read_gguf([path]).tensors
    for theirs in GGUFReader(path).tensors:
        tensor = ours[theirs.name]
        assert tensor.type is theirs.tensor_type
        assert tensor.shape == tuple(reversed(theirs.shape.tolist()))
        assert (tensor.offset, tensor.num_bytes) == (theirs.data_offset, theirs.n_bytes)
    assert len(ours) == 3


def test_a_file_cut_anywhere_is_refused(path):
    whole = path.read_bytes()
    end = max(t.offset + t.num_bytes for t in read_gguf([path]).tensors.values())
    for length in (*range(4, 1200, 7), end - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(LoadError, match="damaged or cut short"):
            read_gguf([path])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "damaged or cut short"),
        (b"GGML\x03\0\0\0" + bytes(64), "is not a GGUF file"),
        (b"GGUF\x01\0\0\0" + bytes(64), "GGUF version 1, versions 2 and 3 can be read"),
        (b"GGUF\0\0\0\x02" + bytes(64), "GGUF version 2, versions 2 and 3 can be read"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 64, "damaged or cut short"),
    ],
    ids=["empty", "ggml", "version-1", "big-endian-2", "garbage"],
)
def test_what_is_no_readable_gguf_file_is_refused(tmp_path, data, says):
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(LoadError, match=says):
        read_gguf([tmp_path / "x.gguf"])


def info_of(data, name):
    """Where a tensor's first dimension and its offset stand in a file."""
    start = data.index(len(name).to_bytes(8, "little") + name) + 8 + len(name)
    num_dimensions = int.from_bytes(data[start : start + 4], "little")
    return start + 4, start + 4 + 8 * num_dimensions + 4


def test_a_tensor_off_the_alignment_is_refused(path):
    data = bytearray(path.read_bytes())
    _, offset = info_of(data, b"packed")
    data[offset] += 2
    path.write_bytes(data)
    with pytest.raises(LoadError, match=r"damaged.*packed is not aligned to 32 bytes"):
        read_gguf([path])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(LoadError, match="No such file"):
        read_gguf([tmp_path / "x.gguf"])


def header(*, tensors=0, keys=0, body=b""):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + body


def string(text):
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (header(tensors=1 << 60), "bytes of the header are missing"),
        (header(keys=1 << 63), "bytes of the header are missing"),
        (header(keys=1, body=struct.pack("<Q", 1 << 62)), "bytes of the header are missing"),
        (
            header(keys=1, body=string(b"a") + struct.pack("<IIQ", 9, 8, 1 << 60)),
            "bytes of the header are missing",
        ),
        (
            header(keys=1, body=string(b"a") + struct.pack("<IIQ", 9, 9, 1 << 60)),
            "bytes of the header are missing",
        ),
        (
            header(
                keys=1, body=string(b"a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 99
            ),
            "arrays more than 8 deep",
        ),
        (header(keys=1, body=string(b"a") + struct.pack("<IQ", 77, 0)), "77 is not a valid"),
        (
            header(keys=2, body=(string(b"a") + struct.pack("<IQ", 10, 5)) * 2),
            "has the key a twice",
        ),
        (
            header(tensors=1, body=string(b"a") + struct.pack("<I", 1 << 30) + bytes(24)),
            "a has 1073741824 dimensions",
        ),
        (
            header(
                tensors=1,
                body=string(b"a") + struct.pack("<I4QIQ", 4, *[1 << 63] * 4, 0, 0) + bytes(32),
            ),
            "a has the impossible dimensions",
        ),
        (
            header(tensors=1, body=string(b"a") + struct.pack("<I2QIQ", 2, 1 << 62, 0, 0, 0)),
            "a has the impossible dimensions",
        ),
        (
            header(tensors=1, body=string(b"a") + struct.pack("<I2QIQ", 2, 1 << 20, 99, 0, 0)),
            "its tensors need",
        ),
        (
            header(tensors=2, body=(string(b"a") + struct.pack("<IQIQ", 1, 1, 0, 0)) * 2)
            + bytes(64),
            "two tensors of one name",
        ),
    ],
    ids=[
        "tensors",
        "keys",
        "string",
        "array-of-strings",
        "array-of-arrays",
        "nested",
        "type",
        "key-twice",
        "dimensions",
        "overflow",
        "huge-nothing",
        "more-than-the-file",
        "tensor-twice",
    ],
)
def test_a_file_that_lies_is_refused_before_memory_is_taken(tmp_path, data, says):
    (tmp_path / "x.gguf").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(LoadError, match=says):
        read_gguf([tmp_path / "x.gguf"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_arrays_may_be_in_arrays_and_text_need_not_be_utf_8(tmp_path):
    inner = struct.pack("<IQ", 0, 2) + b"\x07\x08"
    body = string(b"nested") + struct.pack("<IIQ", 9, 9, 2) + inner * 2
    body += string(b"text") + struct.pack("<I", 8) + string(b"caf\xe9")
    (tmp_path / "x.gguf").write_bytes(header(keys=2, body=body))
    assert read_gguf([tmp_path / "x.gguf"]).metadata == {
        "nested": [[7, 8], [7, 8]],
        "text": "caf\ufffd",
    }


@pytest.mark.parametrize("alignment", [24, 40, 2, 1])
def test_an_alignment_may_be_a_multiple_of_8_or_a_power_of_two(tmp_path, alignment):
    body = string(b"general.alignment") + struct.pack("<II", 4, alignment)
    body += string(b"a") + struct.pack("<IQIQ", 1, 2, 0, 0)
    data = header(keys=1, tensors=1, body=body)
    data += bytes(-len(data) % alignment)
    (tmp_path / "x.gguf").write_bytes(data + struct.pack("<2f", 1, 2))
    assert read_gguf([tmp_path / "x.gguf"]).tensors["a"].offset == len(data)


@pytest.mark.parametrize("alignment", [0, 3, 12])
def test_no_other_alignment_is_believed(tmp_path, alignment):
    body = string(b"general.alignment") + struct.pack("<II", 4, alignment)
    (tmp_path / "x.gguf").write_bytes(header(keys=1, body=body) + bytes(64))
    with pytest.raises(LoadError, match=r"damaged or cut short \(general.alignment is"):
        read_gguf([tmp_path / "x.gguf"])
