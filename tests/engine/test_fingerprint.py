"""The name of a set of weights."""

import os

import msgspec
import pytest

from engine.fingerprint import fingerprint
from engine.weights.files import ModelFiles
from tests.engine.hash_model import model_config

SIZE = 300_000


def make_files(directory, content=None):
    directory.mkdir(exist_ok=True)
    path = directory / "model.safetensors"
    path.write_bytes(bytes(i % 251 for i in range(SIZE)) if content is None else content)
    return ModelFiles(kind="plain", name="m", directory=directory, weights=(path,))


def test_equal_models_have_equal_names_wherever_they_lie(tmp_path):
    here, there = make_files(tmp_path / "a"), make_files(tmp_path / "b")
    assert fingerprint(here, model_config()) == fingerprint(there, model_config())
    assert len(fingerprint(here, model_config())) == 32


@pytest.mark.parametrize("change", ["head", "tail", "size", "shape", "empty"])
def test_what_differs_changes_the_name(tmp_path, change):
    before = fingerprint(make_files(tmp_path / "a"), model_config())
    content = bytearray((tmp_path / "a" / "model.safetensors").read_bytes())
    if change == "head":
        content[100] ^= 1
    if change == "tail":
        content[-1] ^= 1
    if change == "size":
        content += b"x"
    if change == "empty":
        content.clear()
    config = model_config(rope_theta=5e5) if change == "shape" else model_config()
    assert fingerprint(make_files(tmp_path / "b", bytes(content)), config) != before


def test_another_tokenizer_changes_the_name(tmp_path):
    files = make_files(tmp_path / "a")
    names = {fingerprint(files, model_config())}
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    names.add(fingerprint(files, model_config()))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "tokenizer.model").write_bytes(b"pieces")
    other = msgspec.structs.replace(files, kind="gguf", tokenizer=tmp_path / "b")
    names.add(fingerprint(other, model_config()))
    names.add(fingerprint(msgspec.structs.replace(other, tokenizer=None), model_config()))
    assert len(names) == 3  # a GGUF file has its tokenizer inside: that is the first name again


def test_a_large_file_is_sampled_not_read(tmp_path):
    files = make_files(tmp_path, b"")
    os.truncate(files.weights[0], 1 << 40)  # a hole of a terabyte
    assert fingerprint(files, model_config())
