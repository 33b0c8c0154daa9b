"""Llama models in GGML files against the same weights in safetensors files."""

import msgspec
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from engine.errors import LoadError
from engine.models.registry import load_class
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelFiles, ModelRef, resolve
from engine.weights.ggml_config import read_ggml_config
from engine.weights.ggml_header import read_ggml
from engine.weights.ggml_vocab import read_ggml_vocab
from tests.engine.models import tiny
from tests.engine.weights.ggml_files import MAGICS, write_ggml

OLD = (Type.F32, Type.F16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0)
CPU = (torch.float32, torch.device("cpu"))


def open_ggml(path, gqa=2):
    return open_checkpoint(
        ModelFiles(kind="ggml", name="x", directory=path.parent, weights=(path,), gqa=gqa)
    )


@pytest.fixture
def llama():
    return tiny.make_model("llama")


@pytest.mark.parametrize("kind", OLD, ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("magic", "version"), [("ggml", 1), ("ggmf", 1), ("ggjt", 1), ("ggjt", 2), ("ggjt", 3)]
)
def test_tensors_are_those_of_the_model(tmp_path, kind, magic, version):
    model = tiny.make_model("llama", num_hidden_layers=1)
    check_tensors(open_ggml(write_ggml(model, tmp_path / "x.bin", kind, magic, version)), model)


@pytest.mark.parametrize("kind", [Type.Q2_K, Type.Q4_K, Type.Q5_K, Type.Q6_K], ids=lambda t: t.name)
def test_ggjt_3_has_k_types(tmp_path, kind):
    wide = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
    model = tiny.make_model("llama", **wide)
    check_tensors(open_ggml(write_ggml(model, tmp_path / "x.bin", kind)), model)


def check_tensors(checkpoint, model):
    expected = dict(model.named_parameters())
    assert checkpoint.names() == expected.keys()
    for name, weight in expected.items():
        assert checkpoint.shape(name) == weight.shape
        assert torch.equal(checkpoint.tensor(name).float(), weight), name


@pytest.mark.parametrize("kind", [Type.F16, Type.Q5_1], ids=lambda t: t.name)
def test_a_safetensors_file_of_the_same_weights_loads_to_the_same_model(
    tmp_path, llama, kind, monkeypatch
):
    monkeypatch.setattr("engine.weights.loader.can_pack", lambda *_: False)
    checkpoint = open_ggml(write_ggml(llama, tmp_path / "x.bin", kind, "ggjt", 1))
    llama.save_pretrained(tmp_path / "plain")
    plain = open_checkpoint(resolve(ModelRef(model=str(tmp_path / "plain"))))
    ours, theirs = (load_class("LlamaForCausalLM")(plain.config, *CPU) for _ in range(2))
    ours.load(checkpoint)
    theirs.load(plain)
    for name, weight in theirs.named_parameters():
        assert torch.equal(ours.get_parameter(name), weight), name


def test_the_configuration_is_that_of_the_model(tmp_path):
    llama = tiny.make_model("llama", rms_norm_eps=1e-5)
    path = write_ggml(llama, tmp_path / "x.bin", Type.F16)
    llama.save_pretrained(tmp_path / "plain")
    expected = open_checkpoint(resolve(ModelRef(model=str(tmp_path / "plain")))).config
    unsaid = {"context_length": 4096, "dtype": "float16"}
    assert read_ggml_config(path, 2) == msgspec.structs.replace(expected, **unsaid)


@pytest.mark.parametrize(("gqa", "eps"), [(2, 1e-5), (1, 5e-6)])
def test_epsilon_goes_by_grouped_heads(tmp_path, gqa, eps):
    model = tiny.make_model("llama", num_key_value_heads=4 // gqa)
    assert read_ggml_config(write_ggml(model, tmp_path / "x.bin"), gqa).norm_eps == eps


@pytest.mark.parametrize(("gqa", "says"), [(1, "give --gqa 2"), (3, "cannot be shared by --gqa 3")])
def test_a_wrong_number_of_shared_heads_is_refused(tmp_path, llama, gqa, says):
    path = write_ggml(llama, tmp_path / "x.bin")
    with pytest.raises(LoadError, match=says):
        open_ggml(path, gqa)


def test_several_parts_are_refused(tmp_path, llama):
    path = write_ggml(llama, tmp_path / "x.bin")
    files = ModelFiles(kind="ggml", name="x", directory=tmp_path, weights=(path, path), gqa=2)
    with pytest.raises(LoadError, match="is one of 2 parts; GGML models in several files are not"):
        open_checkpoint(files)


def test_a_file_cut_anywhere_is_refused(tmp_path, llama):
    path = write_ggml(llama, tmp_path / "x.bin", Type.Q8_0)
    whole = path.read_bytes()
    for length in (*range(1, len(whole), 1999), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(LoadError, match=r"damaged or cut short|has no tensor|is not a GGML"):
            open_ggml(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "damaged or cut short"),
        (b"GGUF" + bytes(64), "is not a GGML file but a GGUF file"),
        (b"PK\x03\x04" + bytes(64), "is not a GGML file; say which"),
        (b"tjgg\x04\0\0\0" + bytes(64), "unknown GGML version ggjt 4"),
        (b"fmgg\x02\0\0\0" + bytes(64), "unknown GGML version ggmf 2"),
        (b"tjgg\x03\0\0\0" + b"\xff" * 64, "is too short for 4294967295 tokens"),
        (b"tjgg\x03\0\0\0" + bytes(28) + bytes(12), "a tensor has 0 dimensions"),
    ],
    ids=["empty", "gguf", "zip", "ggjt-4", "ggmf-2", "tokens", "zeros"],
)
def test_what_is_no_readable_ggml_file_is_refused(tmp_path, data, says):
    (tmp_path / "x.bin").write_bytes(data)
    with pytest.raises(LoadError, match=says):
        read_ggml(tmp_path / "x.bin")


def test_a_type_that_the_version_did_not_have_is_refused(tmp_path, llama):
    path = write_ggml(llama, tmp_path / "x.bin", Type.F16, "ggjt", 2)
    data = path.read_bytes()
    name = b"tok_embeddings.weight"
    head = data.index(name) - 12
    assert data[head : head + 4] == b"\x01\0\0\0"
    path.write_bytes(data[:head] + b"\x0c" + data[head + 1 :])
    with pytest.raises(LoadError, match=r"tok_embeddings.weight cannot be Q4_K: version 2 does"):
        read_ggml(path)
    path.write_bytes(data[:head] + b"\x04" + data[head + 1 :])
    with pytest.raises(LoadError, match=r"has the tensor type 4, which llama.cpp gave up"):
        read_ggml(path)


VOCAB = [
    (b" \xe2\x81\x87 ", 0.0),
    (b"", 0.0),
    (b"", 0.0),
    *((bytes([i]), 0.0) for i in range(256)),
    (b" the", -1.5),
    (b"A", -2.0),
    (b"  ", -3.0),
    ("é世".encode(), -4.0),
    (b"\xff", -5.0),
    (b"\xe4\xb8", -6.0),
    (b"", 0.0),
]


def test_the_vocabulary_is_as_a_gguf_file_would_have_it(tmp_path, llama):
    path = write_ggml(llama, tmp_path / "x.bin", vocab=VOCAB)
    vocab = read_ggml_vocab(path)
    tokens = vocab["tokenizer.ggml.tokens"]
    assert vocab["tokenizer.ggml.model"] == "llama"
    assert tokens[:5] == ["<unk>", "<s>", "</s>", "<0x00>", "<0x01>"]
    assert tokens[3 + 0x41] == "<0x41>"
    assert tokens[258:] == [
        "<0xFF>",
        "▁the",
        "A",
        "▁▁",
        "é世",
        "<0xFF>",
        "\ufffd",
        f"<control {len(VOCAB) - 1}>",
    ]
    assert vocab["tokenizer.ggml.scores"] == [score for _, score in VOCAB]
    types = vocab["tokenizer.ggml.token_type"]
    assert types[:4] == [2, 3, 3, 6]
    assert types[258:] == [6, 1, 1, 1, 1, 6, 1, 3]
    assert len(tokens) == len(types) == len(VOCAB)


def test_a_vocabulary_without_scores_is_refused_and_says_what_to_do(tmp_path, llama):
    path = write_ggml(llama, tmp_path / "x.bin", magic="ggml", version=1)
    assert len(read_ggml(path).tokens) == llama.config.vocab_size
    with pytest.raises(LoadError, match="without scores of tokens; name a tokenizer with -t"):
        read_ggml_vocab(path)


def test_every_magic_is_tested():
    assert set(MAGICS) == {"ggml", "ggmf", "ggjt"}
