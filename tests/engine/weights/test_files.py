"""Finding a model's files on disk."""

import errno
import json
from pathlib import Path

import pytest

from engine.errors import LoadError
from engine.weights.files import ModelRef, resolve


@pytest.fixture
def directory(tmp_path):
    """An empty directory and a way to fill it with files by name."""

    def fill(*names):
        for name in names:
            (tmp_path / name).write_bytes(b"{}")
        return tmp_path

    return fill


def names(files):
    return [path.name for path in files.weights]


def test_a_directory_with_one_safetensors_file_is_plain(directory):
    path = directory("config.json", "model.safetensors", "tiny.gguf")
    files = resolve(ModelRef(model=str(path)))
    assert (files.kind, files.name, files.directory) == ("plain", path.name, path)
    assert names(files) == ["model.safetensors"]


def test_a_sharded_model_has_the_shards_of_its_index(directory):
    path = directory("config.json", "a.safetensors", "b.safetensors", "unused.safetensors")
    index = {"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert names(resolve(ModelRef(model=str(path)))) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(
    ("present", "file", "found"),
    [
        (["one.gguf"], None, ["one.gguf"]),
        (["one.gguf", "two.gguf"], "two.gguf", ["two.gguf"]),
        (["one.gguf", "two.gguf"], "two.gguf;one.gguf", ["two.gguf", "one.gguf"]),
        (
            ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"],
            None,
            ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"],
        ),
    ],
    ids=["the-only-one", "by-name", "a-list", "all-splits"],
)
def test_gguf_files_of_a_directory(directory, present, file, found):
    files = resolve(ModelRef(model=str(directory(*present)), file=file))
    assert files.kind == "gguf"
    assert names(files) == found
    assert files.name == found[0].removesuffix(".gguf").removesuffix("-00001-of-00002")


def test_a_gguf_file_can_be_given_by_itself(directory):
    path = directory("one.gguf", "two.gguf") / "two.gguf"
    files = resolve(ModelRef(model=str(path)))
    assert (files.kind, files.name, files.weights) == ("gguf", "two", (path,))


def test_the_built_in_model_has_a_name_of_its_own():
    files = resolve(ModelRef(model="builtin"))
    assert files.name == "tramontane-tiny"
    assert names(files) == ["model.safetensors"]


@pytest.mark.parametrize(
    ("present", "ref", "says"),
    [
        ([], {}, "has no config.json"),
        (["config.json"], {}, "no model.safetensors and no model.safetensors.index.json"),
        (["config.json", "pytorch_model.bin"], {}, "pickle files .* run code .* safetensors"),
        (["config.json", "consolidated.00.pth"], {}, "pickle files"),
        (["a.gguf", "b.gguf"], {}, "has a.gguf, b.gguf; say which GGUF file with -f"),
        (["a.gguf"], {"file": "b.gguf"}, "b.gguf does not exist; .* has a.gguf"),
        (["config.json"], {"kind": "gguf"}, "has no such files; say which GGUF file"),
        (["a.gguf"], {"kind": "plain"}, "has no config.json"),
        (["a.gguf"], {"file": " ; "}, "' ; ' names no GGUF file"),
        (["m-00001-of-00002.gguf"], {}, "m-00002-of-00002.gguf does not exist"),
    ],
    ids=[
        "empty",
        "no-weights",
        "bin",
        "pth",
        "two-gguf",
        "wrong-name",
        "no-gguf",
        "not-plain",
        "no-name",
        "missing-split",
    ],
)
def test_what_is_not_there_is_named(directory, present, ref, says):
    with pytest.raises(LoadError, match=says):
        resolve(ModelRef(model=str(directory(*present)), **ref))


def test_a_missing_shard_is_named(directory):
    path = directory("config.json", "a.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LoadError, match=r"b.safetensors does not exist; .* has a.safetensors"):
        resolve(ModelRef(model=str(path)))


@pytest.mark.parametrize("text", ["not json", "{}", '{"weight_map": []}'])
def test_a_damaged_index_is_named(directory, text):
    path = directory("config.json")
    (path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(LoadError, match=r"model.safetensors.index.json cannot be used"):
        resolve(ModelRef(model=str(path)))


def test_a_file_that_is_no_gguf_file_is_refused(directory):
    path = directory("model.safetensors") / "model.safetensors"
    with pytest.raises(LoadError, match="is a file; give the model's directory"):
        resolve(ModelRef(model=str(path)))


def test_a_directory_that_may_not_be_read_is_a_load_error(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    (tmp_path / "model").mkdir()
    monkeypatch.setattr(Path, "is_file", refuse)  # the tests may run as root, who may read all
    with pytest.raises(LoadError, match=r"model/config\.json cannot be read: Permission denied"):
        resolve(ModelRef(model=str(tmp_path / "model")))
