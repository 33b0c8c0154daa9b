"""Directories without tokenizer.json: a SentencePiece model, or vocab.json and merges.txt."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import transformers
from hypothesis import HealthCheck, given, settings

from engine.errors import LoadError
from engine.text.hf_tokenizer import load_tokenizer

DATA = Path(__file__).parent / "data"
relaxed = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def model(tmp_path: Path):
    """Puts one of the SentencePiece models into a directory, with a tokenizer_config.json."""

    def make(kind: str, **config) -> Path:
        shutil.copy(DATA / f"{kind}.model", tmp_path / "tokenizer.model")
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return tmp_path

    return make


@pytest.fixture
def byte_level_files(tmp_path: Path, gpt2):
    """Writes a tokenizer's vocab.json, merges.txt and added_tokens.json."""

    def make(model_type: str = "gpt2", **config) -> Path:
        document = json.loads(gpt2.to_str())
        added = {token["content"]: token["id"] for token in document["added_tokens"]}
        merges = "\n".join(" ".join(pair) for pair in document["model"]["merges"])
        special = [token["content"] for token in document["added_tokens"] if token["special"]]
        config = {"additional_special_tokens": special} | config
        (tmp_path / "vocab.json").write_text(json.dumps(document["model"]["vocab"]))
        (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
        (tmp_path / "added_tokens.json").write_text(json.dumps(added))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        return tmp_path

    return make


@pytest.mark.parametrize("kind", ["llama", "gemma", "unigram", "normalizing"])
def test_ids_and_texts_are_those_of_the_sentencepiece_library(model, kind):
    tokenizer = load_tokenizer(model(kind))
    rows = json.loads((DATA / f"{kind}.json").read_text())
    assert len(rows) > 100
    for text, ids, back in rows:
        assert tokenizer.encode(text, add_special_tokens=False) == ids
        if tokenizer.token_to_id("<unk>") not in ids:  # which the library shows as a sign
            assert tokenizer.decode(ids) == back


def test_names_and_bos_come_from_the_model_file(model):
    tokenizer = load_tokenizer(model("gemma"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    assert tokenizer.special_tokens == names
    assert tokenizer.encode("") == [2]
    assert tokenizer.eos_ids == {1}
    assert {0, 1, 2, 3} <= tokenizer.special_ids


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [1]),
        ({"add_bos_token": None}, [1]),
        ({"add_bos_token": False}, []),
        ({"add_eos_token": True}, [1, 2]),
    ],
    ids=["silent", "null", "no bos", "eos"],
)
def test_the_config_says_which_ends_are_added(model, config, expected):
    assert load_tokenizer(model("llama", **config)).encode("") == expected


def test_the_configs_tokens_stand_at_their_ids_and_swallow_space_as_it_says(model):
    size = load_tokenizer(model("llama")).vocab_size
    added = {
        str(size): {"content": "<|user|>", "special": True, "rstrip": True, "normalized": True},
        str(size + 1): {"content": "<tool>", "special": False},
    }
    tokenizer = load_tokenizer(model("llama", added_tokens_decoder=added, eos_token="<|user|>"))
    ids = tokenizer.encode("<|user|> \n the<tool>", add_special_tokens=False)
    the = tokenizer.encode("the", add_special_tokens=False)
    assert ids == [size, *the, size + 1]
    assert tokenizer.decode(ids) == "the<tool>"
    assert tokenizer.eos_ids == {size}


def test_without_legacy_only_the_text_s_start_gets_a_space(model):
    spaced, plain = load_tokenizer(model("llama")), load_tokenizer(model("llama", legacy=False))
    the = spaced.encode("the", add_special_tokens=False)
    assert spaced.encode("the</s>the", add_special_tokens=False) == [*the, 2, *the]
    ids = plain.encode("the</s>the", add_special_tokens=False)
    assert ids[: len(the) + 1] == [*the, 2]
    assert ids[len(the) + 1 :] != the
    assert plain.decode(ids) == "thethe"


@pytest.mark.parametrize("extra", [{}, {"add_prefix_space": False}], ids=["space", "none"])
def test_the_config_may_take_the_first_space_away(model, extra):
    tokenizer = load_tokenizer(model("llama", **extra))
    first = tokenizer.encode(" the", add_special_tokens=False)
    assert (first == tokenizer.encode("the", add_special_tokens=False)) is False
    assert tokenizer.decode(first) == " the"


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_vocab_and_merges_give_the_ids_of_transformers(byte_level_files, any_text, name):
    classes = {"gpt2": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer"}
    directory = byte_level_files(name, tokenizer_class=classes[name], eos_token="</s>")
    tokenizer = load_tokenizer(directory)
    reference = getattr(transformers, classes[name]).from_pretrained(directory)

    @relaxed
    @given(any_text)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert ids == reference.encode(text)
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)

    check()


def test_the_end_of_a_byte_level_vocabulary_is_gpt2_s_unless_the_config_names_one(
    byte_level_files, gpt2
):
    assert load_tokenizer(byte_level_files()).eos_ids == frozenset()
    named = load_tokenizer(byte_level_files(eos_token="</s>"))
    assert named.eos_ids == {gpt2.token_to_id("</s>")}


@pytest.mark.parametrize("change", ["short", "wire", "empty", "text", "type"])
def test_a_damaged_model_file_is_refused_in_one_sentence(tmp_path, change):
    data = (DATA / "llama.model").read_bytes()
    damaged = {
        "short": data[:-7],
        "wire": b"\x0f" + data,
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\n",
        "type": data + b"\x12\x02\x18\x09",  # a second trainer spec, with a model type of 9
    }
    (tmp_path / "tokenizer.model").write_bytes(damaged[change])
    with pytest.raises(LoadError, match="no SentencePiece model, or damaged"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(("algorithm", "name"), [(3, "WORD"), (4, "CHAR")])
def test_a_model_of_another_algorithm_is_refused(tmp_path, algorithm, name):
    piece = b"\x0a\x01a\x15" + struct.pack("<f", -1.0)
    data = b"\x0a" + bytes([len(piece)]) + piece + b"\x12\x02\x18" + bytes([algorithm])
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(LoadError, match=f"is a {name} model"):
        load_tokenizer(tmp_path)


def test_added_tokens_that_leave_a_gap_are_refused(model):
    added = {"100000": {"content": "<far>", "special": True}}
    with pytest.raises(LoadError, match="leave ids below 100000 unused"):
        load_tokenizer(model("llama", added_tokens_decoder=added))


def test_an_added_token_without_an_id_is_refused(model):
    with pytest.raises(LoadError, match="added_tokens_decoder with 'x'"):
        load_tokenizer(model("llama", added_tokens_decoder={"x": {"content": "y"}}))


def test_a_merges_file_that_is_none_is_refused(byte_level_files):
    directory = byte_level_files()
    (directory / "merges.txt").write_text("a b c\n")
    with pytest.raises(LoadError, match=r"tokenizer in .* is damaged"):
        load_tokenizer(directory)


def test_a_vocabulary_of_few_tokens_with_huge_ids_is_refused(byte_level_files):
    path = byte_level_files("gpt-2") / "vocab.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"far": 10**12}))
    with pytest.raises(
        LoadError, match=r"vocab.json leaves most ids below 1000000000001 unused; download"
    ):
        load_tokenizer(path.parent)
