"""GGUF models in several files, as llama.cpp's gguf-split writes them."""

import numpy as np
import pytest
from gguf import GGUFWriter

from engine.errors import LoadError
from engine.weights.gguf_metadata import read_gguf


@pytest.fixture
def split(tmp_path):
    """Write a split: its number and how many there are (None: no such keys), and its tensors."""

    def write(number, count, names, expected=None, **strings):
        path = tmp_path / f"{number}-{count}-{'-'.join(names)}.gguf"
        writer = GGUFWriter(path, "llama")
        if count is not None:
            writer.add_uint16("split.no", number)
            writer.add_uint16("split.count", count)
            writer.add_int32("split.tensors.count", expected)
        for key, value in strings.items():
            writer.add_string(key, value)
        for name in names:
            writer.add_tensor(name, np.full(4, number, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def test_splits_make_one_header_in_any_order(split):
    first = split(0, 3, ["a", "b"], 4, chat="hello")
    others = [split(2, 3, ["d"], 4), split(1, 3, ["c"], 4)]
    for paths in ([first, *others], [*others, first]):
        header = read_gguf(paths)
        assert list(header.tensors) == ["a", "b", "c", "d"]
        assert header.metadata["chat"] == "hello"
        assert header.tensors["d"].path == others[0]


def test_files_that_do_not_say_that_they_are_splits_are_taken_as_given(split):
    header = read_gguf([split(0, None, ["a"], chat="first"), split(1, None, ["b"])])
    assert list(header.tensors) == ["a", "b"]
    assert header.metadata["chat"] == "first"


def test_a_missing_split_is_refused(split):
    with pytest.raises(LoadError, match="is one of 3 splits and 1 are given; name the first"):
        read_gguf([split(0, 3, ["a"], 3)])


def test_one_split_twice_is_refused(split):
    with pytest.raises(LoadError, match="hold one split twice"):
        read_gguf([split(0, 2, ["a"], 2), split(0, 2, ["b"], 2)])


def test_splits_of_two_models_are_refused(split):
    with pytest.raises(LoadError, match="have 2 tensors together and should have 9"):
        read_gguf([split(0, 2, ["a"], 9), split(1, 2, ["b"], 2)])


def test_a_number_beyond_the_count_is_refused(split):
    with pytest.raises(LoadError, match=r"is damaged: split.count and split.no make no sense"):
        read_gguf([split(0, 2, ["a"], 2), split(2, 2, ["b"], 2)])


def test_a_tensor_in_two_splits_is_refused(split):
    with pytest.raises(LoadError, match="both have a tensor a; they are no splits of one model"):
        read_gguf([split(0, 2, ["a", "b"], 4), split(1, 2, ["a", "c"], 4)])
