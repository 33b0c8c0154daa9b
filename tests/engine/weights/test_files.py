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
        (["a.gguf"], {"file": "b.gguf"}, "has no file b.gguf; it has a.gguf"),
        (["config.json"], {"kind": "gguf"}, "has no GGUF file to serve"),
        (["a.gguf"], {"kind": "plain"}, "has no config.json"),
        (["a.gguf"], {"file": " ; "}, "' ; ' names no file"),
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


def test_a_file_in_a_folder_is_named_by_its_path_or_its_name(directory):
    path = directory("config.json")
    (path / "Q4_0" / "deep" / "deeper").mkdir(parents=True)
    for file in ("Q4_0/m.gguf", "Q4_0/deep/deeper/far.gguf"):
        (path / file).write_bytes(b"GGUF")
    found = {
        file: resolve(ModelRef(model=str(path), file=file)).weights[0].relative_to(path).as_posix()
        for file in ("Q4_0/m.gguf", "m.gguf", "q4_0", "Q4_0/deep/deeper/far.gguf")
    }
    assert found == {
        "Q4_0/m.gguf": "Q4_0/m.gguf",
        "m.gguf": "Q4_0/m.gguf",
        "q4_0": "Q4_0/m.gguf",
        "Q4_0/deep/deeper/far.gguf": "Q4_0/deep/deeper/far.gguf",
    }


def test_a_directory_of_nothing_but_a_gguf_file_and_its_config_is_gguf(directory):
    path = directory("config.json", "one.gguf", "mmproj-one-f16.gguf")
    files = resolve(ModelRef(model=str(path)))
    assert (files.kind, names(files)) == ("gguf", ["one.gguf"])


@pytest.mark.parametrize("magic", [b"tjgg", b"fmgg", b"lmgg"])
def test_a_bin_file_is_told_by_its_magic_to_be_ggml(tmp_path, magic):
    (tmp_path / "llama.ggmlv3.q4_0.bin").write_bytes(magic + bytes(60))
    asked = [
        ModelRef(model=str(tmp_path), file="llama.ggmlv3.q4_0.bin", gqa=8),
        ModelRef(model=str(tmp_path), kind="ggml", gqa=8),
        ModelRef(model=str(tmp_path), kind="ggml", file="4", gqa=8),
        ModelRef(model=str(tmp_path / "llama.ggmlv3.q4_0.bin"), gqa=8),
    ]
    for ref in asked:
        files = resolve(ref)
        assert (files.kind, files.name, files.gqa) == ("ggml", "llama.ggmlv3.q4_0", 8)
        assert names(files) == ["llama.ggmlv3.q4_0.bin"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.bin", b"PK\x03\x04rest", "pickle files .* run code"),
        ("model.bin", b"\x80\x02rest", "pickle files .* run code"),
        ("pytorch_model.bin", b"tjgg", "pickle files .* run code"),
        ("model.bin", b"GGUFrest", "is a GGUF file; rename it"),
        ("model.bin", b"<htm", "is no GGML file: it starts with b'<htm'"),
        ("model.bin", b"", "is no GGML file"),
    ],
    ids=["zip", "pickle", "by-name", "gguf", "page", "empty"],
)
def test_a_bin_file_that_is_no_ggml_file_says_what_it_is(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadError, match=says):
        resolve(ModelRef(model=str(tmp_path), file=name))


def test_a_tokenizer_is_a_directory_or_the_file_in_it(directory, tmp_path):
    model = directory("one.gguf")
    other = tmp_path / "tokenizer-of-another"
    other.mkdir()
    (other / "tokenizer.json").write_bytes(b"{}")
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "tokenizer.model").write_bytes(b"")
    for given in (slow, slow / "tokenizer.model"):
        assert resolve(ModelRef(model=str(model), tokenizer=str(given))).tokenizer == slow
    for given in (other, other / "tokenizer.json"):
        assert resolve(ModelRef(model=str(model), tokenizer=str(given))).tokenizer == other
    assert resolve(ModelRef(model=str(model))).tokenizer is None


def test_what_is_no_tokenizer_is_refused(directory, tmp_path):
    model = directory("one.gguf", "words.txt")
    (tmp_path / "empty").mkdir()
    cases = {
        tmp_path / "empty": "has no tokenizer.json .*; name a model that has one",
        model / "words.txt": "words.txt is no tokenizer.json",
        tmp_path / "nowhere" / "at" / "all": "neither a directory nor a repository",
    }
    for given, says in cases.items():
        with pytest.raises(LoadError, match=says):
            resolve(ModelRef(model=str(model), tokenizer=str(given)))


@pytest.mark.parametrize("arch", ["llama", "LlamaForCausalLM", "Llama"])
def test_the_architecture_that_is_asked_for_may_be_the_one_there_is(directory, arch):
    path = directory("config.json", "model.safetensors")
    (path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert resolve(ModelRef(model=str(path), arch=arch)).kind == "plain"


def test_another_architecture_than_the_one_asked_for_is_refused(directory):
    path = directory("config.json", "model.safetensors")
    (path / "config.json").write_text('{"architectures": ["Phi3ForCausalLM"]}')
    with pytest.raises(LoadError, match="names the architecture Phi3ForCausalLM, not phi2; leave"):
        resolve(ModelRef(model=str(path), arch="phi2"))


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ({"gqa": 8}, "one says itself how its heads are grouped; leave --gqa out"),
        ({"arch": "llama"}, "--arch is checked with config.json, which gguf has not"),
        ({"kind": "plain", "file": "one.gguf"}, "one.gguf is asked for, but .* leave -f out"),
    ],
)
def test_what_does_not_go_with_the_files_is_refused_not_ignored(directory, ref, says):
    with pytest.raises(LoadError, match=says):
        resolve(ModelRef(model=str(directory("one.gguf")), **ref))


def test_the_built_in_model_has_no_file_to_choose():
    with pytest.raises(LoadError, match=r"a.gguf is asked for"):
        resolve(ModelRef(model="builtin", file="a.gguf"))


@pytest.mark.parametrize("model", ["builtin", "directory"])
def test_a_misspelt_token_source_is_refused_though_no_token_is_needed(directory, model):
    path = directory("one.gguf") if model == "directory" else model
    with pytest.raises(LoadError, match="must be literal:TOKEN") as error:
        resolve(ModelRef(model=str(path), token_source="hf_secret"))
    assert "hf_secret" not in str(error.value)


def test_a_missing_shard_is_named(directory):
    path = directory("config.json", "a.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LoadError, match=r"b.safetensors does not exist; .* has a.safetensors"):
        resolve(ModelRef(model=str(path)))


@pytest.mark.parametrize("text", ["not json", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
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
    monkeypatch.setattr(Path, "iterdir", refuse)  # the tests may run as root, who may read all
    with pytest.raises(LoadError, match=r"model cannot be read: Permission denied"):
        resolve(ModelRef(model=str(tmp_path / "model")))


@pytest.mark.parametrize("name", ["~nobody-of-this-name/model", "a" * 5000], ids=["user", "long"])
@pytest.mark.parametrize("field", ["model", "tokenizer"])
def test_what_can_be_no_path_is_a_sentence(directory, field, name):
    here = {"model": str(directory("config.json", "model.safetensors"))}
    with pytest.raises(LoadError, match=r"is neither a directory nor|File name too long"):
        resolve(ModelRef(**{**here, field: name}))


def test_a_file_whose_name_is_too_long_is_a_sentence(directory):
    with pytest.raises(LoadError, match="File name too long"):
        resolve(ModelRef(model=str(directory("a.gguf")), file="a" * 5000))
