"""Ids are the originals' on any text, for each way of cutting it that a GGUF file can name."""

import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings

from engine.text.gguf_tokenizer import build_tokenizer
from engine.text.pretokenizers import find_profile
from tests.engine.text.published_splits import PUBLISHED, SAME

few = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
nightly = settings(few, max_examples=10_000, database=None)
AMOUNTS = [
    pytest.param(few, id="few"),
    pytest.param(nightly, id="10,000", marks=[pytest.mark.nightly, pytest.mark.timeout(900)]),
]


@pytest.mark.parametrize("amount", AMOUNTS)
def test_byte_level_ids_and_text_are_those_of_the_original(
    byte_level, byte_level_metadata, any_text, amount
):
    pre, original = byte_level
    tokenizer = build_tokenizer(byte_level_metadata(original, pre, add_bos_token=False))
    is_nfc = PUBLISHED[pre][0] is not None

    @amount
    @given(any_text)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert ids == original.encode(text).ids
        kept = tokenizer.decode(ids, skip_special_tokens=False)
        assert kept == (unicodedata.normalize("NFC", text) if is_nfc else text)

    check()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_sentencepiece_ids_and_text_are_those_of_the_original(
    llama, sentencepiece, any_text, amount
):
    tokenizer = build_tokenizer(sentencepiece.metadata())

    @amount
    @given(any_text)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert ids == llama.encode(text).ids
        assert tokenizer.decode(ids) == llama.decode(ids)

    check()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_sentencepiece_joins_the_best_pair_first(sentencepiece, any_text, amount):
    """Apart from the texts of special tokens, which the plain algorithm does not know."""
    tokenizer = build_tokenizer(sentencepiece.metadata(add_space_prefix=False))

    @amount
    @given(any_text)
    def check(text: str) -> None:
        plain = text.replace("<", "")
        ids = tokenizer.encode(plain, add_special_tokens=False)
        assert ids == sentencepiece.encode(plain)
        assert tokenizer.decode(ids) == plain.replace("▁", " ")

    check()


def test_the_trained_vocabularies_join_bytes_and_differ_by_profile(byte_level):
    pre, original = byte_level
    text = "They're 12345 hens,\n\n  nai\u0308ve² 你好123世界 fooBar!"
    ids = original.encode(text).ids
    assert len(ids) < len(text.encode()) - 10
    others = [name for name in PUBLISHED if cuts(name, text) == cuts(pre, text) and name != pre]
    assert all(PUBLISHED[pre][1] == PUBLISHED[name][1] or is_alike(pre, name) for name in others)


def is_alike(one: str, other: str) -> bool:
    """Published in other words, or different on rarer texts than that one."""
    return any(
        {one, other} <= group
        for group in (
            {"llama-bpe", "dbrx", "glm4", "minicpm5"},
            {"gpt-2", "olmo"},
            {"smollm", "command-r"},
            {"qwen2", "bailingmoe"},
        )
    )


def cuts(name: str, text: str) -> list[str]:
    return [word for word, _ in find_profile(name).pre_tokenizer().pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("name", "other"), [(name, other) for name, others in SAME.items() for other in others]
)
def test_names_of_one_way_to_cut_share_it(name, other):
    one, same = find_profile(name), find_profile(other)
    assert (one.patterns, one.splits_words, one.is_nfc, one.steps) == (
        same.patterns,
        same.splits_words,
        same.is_nfc,
        same.steps,
    )


def test_deepseek_llm_cuts_as_its_published_patterns_do():
    """Its range of punctuation, `:-~`, holds ASCII's letters: words with others are cut there."""
    text = "Straße,12a你好ABCé\u00bd 漢!?"
    pieces = ["Stra", "ß", "e", ",", "12", "a", "你好", "ABC", "é", "½", " ", "漢", "!?"]
    spans = find_profile("deepseek-llm").pre_tokenizer().pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in spans] == pieces
