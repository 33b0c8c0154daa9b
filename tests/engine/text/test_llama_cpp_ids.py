"""Ids against llama.cpp's own, for the same metadata.

Where the two cut text otherwise, ours follows the models' tokenizer.json (test_golden_ids.py).
"""

import unicodedata
from collections.abc import Callable

import pytest
from gguf import GGUFWriter

from engine.text.gguf_tokenizer import build_tokenizer
from engine.text.pretokenizers import _PROFILES
from tests.engine.llama_cpp_peer import LlamaCpp, library

pytestmark = pytest.mark.nightly

GPT4O = ("gpt-4o", "llama4", "minimax-m2", "kanana2", "talkie", "tekken")
DEEPSEEK = ("deepseek-llm", "deepseek-coder")


@pytest.fixture(autouse=True, scope="module")
def _installed():
    library()


def opened(metadata, path, architecture="llama"):
    """llama.cpp's tokenizer of a file with this metadata and nothing else."""
    writer = GGUFWriter(path, architecture)
    adders: dict[type, Callable[..., None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        str: writer.add_string,
    }
    for key, value in metadata.items():
        if key != "general.architecture":
            adders.get(type(value), writer.add_array)(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return LlamaCpp(path, vocab_only=True)


def is_cut_alike(pre, text):
    """Whether llama.cpp does the same with the text as the tokenizer.json."""
    if _PROFILES[pre].is_nfc:  # it normalises nothing
        return unicodedata.is_normalized("NFC", text)
    if pre in GPT4O:  # it knows the case of ASCII only, and no marks
        return not any(is_cased_or_mark(char) for char in text if not char.isascii())
    if pre in DEEPSEEK:  # all white space outside ASCII is one character to it
        return not has_wide_space(text)
    # It looks for three digits only, and before the change into bytes.
    return pre != "falcon" or (text.isascii() and not any(char.isdigit() for char in text))


def has_wide_space(text):
    return any(char.isspace() and not char.isascii() for char in text)


def is_cased_or_mark(char):
    return unicodedata.category(char) in ("Lu", "Ll", "Lt", "Mn", "Mc", "Me")


@pytest.mark.parametrize("pre", _PROFILES)
def test_byte_level_ids_are_llama_cpps(pre, uncut, byte_level_metadata, mixtures, tmp_path):
    metadata = byte_level_metadata(uncut, pre)
    ours, theirs = build_tokenizer(metadata), opened(metadata, tmp_path / "vocab.gguf")
    alike = [text for text in mixtures if is_cut_alike(pre, text)]
    assert len(alike) > 40
    assert [ours.encode(text) for text in alike] == [theirs.encode(text) for text in alike]


@pytest.mark.parametrize(
    "extra",
    [{}, {"add_space_prefix": False}, {"add_bos_token": False, "add_eos_token": True}],
    ids=["as it is", "no space", "other ends"],
)
def test_sentencepiece_ids_are_llama_cpps(extra, sentencepiece, mixtures, tmp_path):
    metadata = sentencepiece.metadata(**extra)
    ours, theirs = build_tokenizer(metadata), opened(metadata, tmp_path / "vocab.gguf")
    assert [ours.encode(text) for text in mixtures] == [theirs.encode(text) for text in mixtures]


def test_white_space_behind_special_tokens_of_phi3_goes_as_in_llama_cpp(
    sentencepiece, mixtures, tmp_path
):
    named = {"general.architecture": "phi3", "general.name": "Phi-3 mini"}
    metadata = sentencepiece.metadata() | named
    # llama.cpp reads no Phi-3 without this one.
    for key, value in (("tokens", "<|endoftext|>"), ("scores", 0.0), ("token_type", 3)):
        metadata[f"tokenizer.ggml.{key}"] = [*metadata[f"tokenizer.ggml.{key}"], value]
    ours, theirs = build_tokenizer(metadata), opened(metadata, tmp_path / "vocab.gguf", "phi3")
    specials = ("<|im_end|>", "</s>", "<|endoftext|>", "<unk>")
    # It takes ASCII's white space only.
    alike = [text for text in mixtures if not has_wide_space(text)]
    texts = [f"a{special}{text}" for special in specials for text in alike]
    assert [ours.encode(text) for text in texts] == [theirs.encode(text) for text in texts]


@pytest.mark.parametrize("has_prefix", [True, False], ids=["prefix", "no prefix"])
def test_user_defined_runs_are_found_as_by_llama_cpp(has_prefix, sentencepiece, mixtures, tmp_path):
    """The converter writes them with plain spaces; Gemma has many."""
    tokens, types = list(sentencepiece.tokens), list(sentencepiece.types)
    for run in ("▁▁", "▁▁▁▁", "▁▁▁"):
        tokens[sentencepiece.ids[run]] = run.replace("▁", " ")
        types[sentencepiece.ids[run]] = 4
    metadata = sentencepiece.metadata(tokens=tokens, token_type=types, add_space_prefix=has_prefix)
    ours, theirs = build_tokenizer(metadata), opened(metadata, tmp_path / "vocab.gguf")
    assert [ours.encode(text) for text in mixtures] == [theirs.encode(text) for text in mixtures]
