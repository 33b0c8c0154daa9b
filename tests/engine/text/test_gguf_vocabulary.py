"""tokenizer.json as GGUF metadata: it makes the same tokenizer, or it is refused."""

import json

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from tokenizers import Regex, pre_tokenizers, processors

from engine.errors import LoadError
from engine.text.gguf_tokenizer import build_tokenizer
from engine.text.gguf_vocabulary import gguf_vocabulary
from engine.text.hf_tokenizer import load_tokenizer
from engine.text.pretokenizers import find_profile

relaxed = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}


def save(directory, backend, **config):
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({**NAMES, **config}))
    return directory


def copy_of(backend):
    return tokenizers.Tokenizer.from_str(backend.to_str())


def test_the_written_tokenizer_makes_the_original_s_tokens(byte_level, tmp_path, any_text):
    name, backend = byte_level
    if name == "falcon":
        pytest.skip("its cuts are no patterns")
    vocab_size = backend.get_vocab_size()
    metadata = gguf_vocabulary(save(tmp_path, backend), vocab_size, ())
    original, written = load_tokenizer(tmp_path), build_tokenizer(metadata)
    assert find_profile(metadata["tokenizer.ggml.pre"]) == find_profile(name)

    @relaxed
    @given(any_text)
    def check(text: str) -> None:
        ids = original.encode(text)
        assert written.encode(text) == ids
        assert written.decode(ids) == original.decode(ids)

    check()


def test_rows_without_a_token_are_unused(gpt2, tmp_path):
    size = gpt2.get_vocab_size()
    metadata = gguf_vocabulary(save(tmp_path, gpt2), size + 2, ())
    assert metadata["tokenizer.ggml.tokens"][size:] == [f"[PAD{size}]", f"[PAD{size + 1}]"]
    assert metadata["tokenizer.ggml.token_type"][size:] == [5, 5]


def test_added_tokens_have_the_types_of_the_original(gpt2, tmp_path):
    metadata = gguf_vocabulary(save(tmp_path, gpt2), gpt2.get_vocab_size(), ())
    types = dict(
        zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True)
    )
    assert (types["<|im_end|>"], types["<tool_call>"], types["a"]) == (3, 4, 1)


def test_end_tokens_have_three_keys_the_tokenizers_own_first(gpt2, tmp_path):
    vocab = gpt2.get_vocab()
    own, other, third = vocab["</s>"], vocab["<|im_end|>"], vocab["<s>"]
    metadata = gguf_vocabulary(save(tmp_path, gpt2), len(vocab), (other, own, third))
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    assert [metadata[key] for key in keys] == [own, *sorted((other, third))]
    assert metadata["tokenizer.ggml.bos_token_id"] == vocab["<s>"]
    assert metadata["tokenizer.ggml.padding_token_id"] == vocab["<unk>"]


@pytest.mark.parametrize("adds_bos", [True, False])
def test_whether_bos_is_added_is_told(gpt2, tmp_path, adds_bos):
    backend = copy_of(gpt2)
    if adds_bos:
        bos = ("<s>", backend.token_to_id("<s>"))
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[bos]
        )
    metadata = gguf_vocabulary(save(tmp_path, backend), backend.get_vocab_size(), ())
    assert metadata["tokenizer.ggml.add_bos_token"] is adds_bos
    assert metadata["tokenizer.ggml.add_eos_token"] is False
    assert build_tokenizer(metadata).encode("hi") == load_tokenizer(tmp_path).encode("hi")


def test_the_chat_template_comes_along_with_its_variant_for_tools(gpt2, tmp_path):
    templates = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "tools"},
    ]
    save(tmp_path, gpt2, chat_template=templates)
    metadata = gguf_vocabulary(tmp_path, gpt2.get_vocab_size(), ())
    assert metadata["tokenizer.chat_template"] == "plain"
    assert metadata["tokenizer.chat_template.tool_use"] == "tools"


def test_a_way_of_cutting_that_no_profile_has_is_refused(gpt2, tmp_path):
    backend = copy_of(gpt2)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("e"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    with pytest.raises(LoadError, match=r"convert_hf_to_gguf.py and quantise that file"):
        gguf_vocabulary(save(tmp_path, backend), backend.get_vocab_size(), ())


@pytest.mark.parametrize("ignores", [True, False])
def test_whether_merges_are_ignored_is_part_of_the_profile(llama3, tmp_path, ignores):
    backend = copy_of(llama3)
    backend.model.ignore_merges = ignores
    metadata = gguf_vocabulary(save(tmp_path, backend), backend.get_vocab_size(), ())
    assert metadata["tokenizer.ggml.pre"] == ("llama-bpe" if ignores else "dbrx")


def test_a_token_that_only_the_config_calls_special_is_so_in_the_file(gpt2, tmp_path):
    settings = {"additional_special_tokens": ["<tool_call>"]}
    metadata = gguf_vocabulary(save(tmp_path, gpt2, **settings), gpt2.get_vocab_size(), ())
    place = metadata["tokenizer.ggml.tokens"].index("<tool_call>")
    assert metadata["tokenizer.ggml.token_type"][place] == 3


def test_a_directory_without_tokenizer_json_is_told_how_to_make_one(tmp_path, gpt2):
    save(tmp_path, gpt2)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(document["model"]["vocab"]))
    pairs = [" ".join(pair) for pair in document["model"]["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(LoadError, match=r"has no tokenizer.json, which a GGUF file is made from"):
        gguf_vocabulary(tmp_path, 600, ())


def test_sentencepiece_is_refused(llama, tmp_path):
    with pytest.raises(LoadError, match="no byte-level BPE tokenizer"):
        gguf_vocabulary(save(tmp_path, llama), llama.get_vocab_size(), ())


def test_a_token_beyond_the_model_s_rows_is_named(gpt2, tmp_path):
    with pytest.raises(LoadError, match="they do not belong together"):
        gguf_vocabulary(save(tmp_path, gpt2), gpt2.get_vocab_size() - 1, ())
