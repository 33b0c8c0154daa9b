"""Safetensors headers that lie, and shards that do not fit their index."""

import json
import struct
import tracemalloc

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import LoadError
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from engine.weights.safetensors_header import read_header, stored_dtype
from engine.weights.safetensors_index import read_shards
from tests.engine.models import tiny


@pytest.fixture(scope="module")
def llama():
    return tiny.make_model("llama")


def entry(start, end, dtype="F32", shape=None):
    shape = [(end - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def write(path, header, num_bytes=0):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(num_bytes))
    return path


def test_a_header_is_read_with_metadata_and_with_empty_tensors(tmp_path):
    header = {"__metadata__": {"format": "pt"}, "b": entry(8, 8), "a": entry(0, 8)}
    found = read_header(write(tmp_path / "x", header, 8))
    assert {name: tensor.data_offsets for name, tensor in found.tensors.items()} == {
        "b": (8, 8),
        "a": (0, 8),
    }


@pytest.mark.parametrize(
    ("header", "num_bytes", "says"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "b does not begin where"),
        ({"a": entry(0, 8), "b": entry(12, 16)}, 16, "b does not begin where"),
        ({"a": entry(0, 8)}, 12, "12 bytes of weights and its header says 8"),
        ({"a": entry(8, 0, shape=[2])}, 8, "which do not make the shape"),
        ({"a": entry(-8, 0, shape=[2])}, 8, ">= 0"),
        ({"a": entry(0, 8, shape=[-1, -2])}, 8, ">= 0"),
        ({"a": entry(0, 8, shape=[3])}, 8, r"which do not make the shape \[3\] in F32"),
        ({"a": entry(0, 8, dtype="F64")}, 8, r"which do not make the shape \[2\] in F64"),
        ({"a": entry(0, 8, shape=[1] * 65)}, 8, "has 65 dimensions"),
        ({"a": entry(0, 4, shape=[1 << 62] * 9)}, 4, "a has an impossible shape"),
        ({"a": entry(0, 0, shape=[0, 1 << 63])}, 0, "a has an impossible shape"),
        ({"a": {**entry(0, 8), "data_offsets": [0.5, 8]}}, 8, "Expected `int`"),
        ({"a": {"dtype": "F32"}}, 0, "missing required field"),
        ([1, 2], 0, "is no JSON object"),
        (b'{"a": 1, "a": 2}', 0, "has 'a' twice"),
        (b"[" * 100_000, 0, "damaged or cut short"),
        (b'{"\xff": 1}', 0, "damaged or cut short"),
        (b'{"a": ' + b"9" * 5000 + b"}", 0, "damaged or cut short"),
        (b"{}", 5, "5 bytes of weights and its header says 0"),
    ],
    ids=[
        "overlap",
        "hole",
        "rest",
        "backwards",
        "negative-offset",
        "negative-shape",
        "shape",
        "dtype",
        "dimensions",
        "overflow",
        "huge-nothing",
        "fraction",
        "no-shape",
        "list",
        "twice",
        "deep",
        "no-utf-8",
        "long-number",
        "nothing",
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header, num_bytes, says):
    with pytest.raises(LoadError, match=says):
        read_header(write(tmp_path / "x", header, num_bytes))


def test_a_header_of_more_than_100_mb_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(200_000_000)
    tracemalloc.start()
    with pytest.raises(LoadError, match="its header has 100000001 bytes"):
        read_header(tmp_path / "x")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_dtype_that_is_not_known_is_no_error_until_it_is_wanted(tmp_path, llama):
    save(llama, tmp_path, {"odd": torch.zeros(3, dtype=torch.float8_e4m3fn)})
    checkpoint = open_checkpoint(resolve(ModelRef(model=str(tmp_path))))
    assert checkpoint.tensor("model.norm.weight").shape == (64,)
    with pytest.raises(LoadError, match="odd is stored as F8_E4M3, which is not supported; use a"):
        checkpoint.tensor("odd")


def test_weights_of_a_dtype_that_needs_scales_are_refused_by_name(tmp_path):
    header = {"a": entry(0, 8, "F8_E5M2", [8]), "b": entry(8, 12)}
    path = write(tmp_path / "model.safetensors", header, 12)
    with pytest.raises(LoadError, match="stores its weights as F8_E5M2; supported are F32, F16"):
        stored_dtype([path])


def save(model, directory, more=None):
    model.save_pretrained(directory)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file({**tensors, **(more or {})}, directory / "model.safetensors")


@pytest.fixture
def shards(tmp_path, llama):
    """A directory of shards, and a way to change its index."""
    llama.save_pretrained(tmp_path, max_shard_size="100KB")
    index_path = tmp_path / "model.safetensors.index.json"

    def change(**weight_map):
        index = json.loads(index_path.read_text())
        index["weight_map"] |= weight_map
        index_path.write_text(json.dumps(index))

    return tmp_path, change


def open_path(path):
    return open_checkpoint(resolve(ModelRef(model=str(path))))


def test_an_index_that_names_a_tensor_that_is_not_there_is_refused(shards):
    path, change = shards
    first = min(path.glob("*.safetensors")).name
    change(ghost=first)
    with pytest.raises(LoadError, match=f"says that ghost is in {first}, and it is not"):
        open_path(path)


def test_an_index_that_names_another_shard_is_refused(shards):
    path, change = shards
    first = min(path.glob("*.safetensors")).name
    change(**{"model.norm.weight": first})
    with pytest.raises(LoadError, match=rf"says that model\.norm\.weight is in {first}, and it is"):
        open_path(path)


@pytest.mark.parametrize("form", ["../{}/x.safetensors", "/x/../{}/x.safetensors"])
def test_an_index_that_leads_out_of_its_directory_is_refused(tmp_path, form):
    path = write(tmp_path / "x.safetensors", {"x": entry(0, 4)}, 4)
    index = {"weight_map": {"x": form.format(tmp_path.name)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LoadError, match=r"names .*x\.safetensors, outside of its directory"):
        read_shards(tmp_path, [path])


def test_of_two_copies_of_a_tensor_the_index_says_which(shards):
    path, _ = shards
    save_file({"model.norm.weight": torch.zeros(64)}, path / "extra.safetensors")
    index = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
    assert index["model.norm.weight"] != "extra.safetensors"
    before = open_path(path).tensor("model.norm.weight").clone()
    save_file(
        {"model.norm.weight": torch.zeros(64), "more": torch.ones(1)}, path / "extra.safetensors"
    )
    shards[1](more="extra.safetensors")
    found = open_path(path)
    assert found.tensor("more").tolist() == [1.0]
    assert torch.equal(found.tensor("model.norm.weight"), before)


def test_two_copies_that_the_index_does_not_list_are_refused(shards):
    path, change = shards
    for name in ("e1", "e2"):
        save_file({"x": torch.zeros(1), name: torch.zeros(1)}, path / f"{name}.safetensors")
    change(e1="e1.safetensors", e2="e2.safetensors")
    with pytest.raises(LoadError, match="both have a tensor x; they are no shards of one model"):
        open_path(path)
