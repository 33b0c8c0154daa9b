"""A tokenizer.json of each family loads, and streams what the `tokenizers` library decodes."""

import json

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings

from engine.text.detokenizer import Detokenizer
from engine.text.hf_tokenizer import load_tokenizer

relaxed = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
UNSPACED = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
BYTES, FUSE = {"type": "ByteFallback"}, {"type": "Fuse"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
BYTE_LEVEL = {
    "llama 3": "llama-bpe",
    "mistral nemo": "tekken",
    "phi 2": "gpt-2",
    "phi 4 and olmo 2": "dbrx",
    "phi 4 mini": "gpt-4o",
    "qwen 2 and 3": "qwen2",
    "qwen 3.5": "qwen35",
    "starcoder 2 and smollm": "smollm",
    "smollm 3": "llama-bpe",
    "deepseek v3": "deepseek-v3",
    "falcon": "falcon",
    "command r": "command-r",
}
PREPENDED = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, SPACES]}
SENTENCEPIECE = {
    "llama 1 and 2": {"normalizer": PREPENDED},
    "mistral v0.3": {
        "normalizer": None,
        "pre_tokenizer": METASPACE,
    },
    "metaspace both ways": {
        "normalizer": None,
        "pre_tokenizer": METASPACE | {"prepend_scheme": "always"},
        "decoder": METASPACE | {"prepend_scheme": "always"},
    },
    "gemma": {
        "normalizer": SPACES,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "decoder": {"type": "Sequence", "decoders": [UNSPACED, BYTES, FUSE]},
    },
    "phi 3": {"normalizer": PREPENDED, "rstrip": True},
}


@pytest.fixture
def load(tmp_path):
    """Both sides of a tokenizer.json: the library's and ours."""

    def make(document):
        (tmp_path / "tokenizer.json").write_text(json.dumps(document))
        original = tokenizers.Tokenizer.from_str(json.dumps(document))
        return original, load_tokenizer(tmp_path)

    return make


def check_against(original, tokenizer, any_text):
    @relaxed
    @given(any_text)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert ids == original.encode(text).ids
        detokenizer = Detokenizer(tokenizer)
        streamed = "".join(detokenizer.push([i]) for i in ids) + detokenizer.flush()
        assert streamed == original.decode(ids, skip_special_tokens=True)

    check()


@pytest.mark.parametrize("pre", BYTE_LEVEL.values(), ids=BYTE_LEVEL)
def test_a_byte_level_family_streams_what_the_library_decodes(load, train, any_text, pre):
    original, tokenizer = load(json.loads(train(pre).to_str()))
    check_against(original, tokenizer, any_text)


@pytest.mark.parametrize("family", SENTENCEPIECE.values(), ids=SENTENCEPIECE)
def test_a_sentencepiece_family_streams_what_the_library_decodes(load, any_text, llama, family):
    document = json.loads(llama.to_str())
    changes = {key: value for key, value in family.items() if key != "rstrip"}
    for token in document["added_tokens"]:
        token["rstrip"] = family.get("rstrip", False) and token["content"] != "<s>"
    original, tokenizer = load(document | changes)
    check_against(original, tokenizer, any_text)
