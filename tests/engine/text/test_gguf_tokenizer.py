"""A tokenizer built from GGUF metadata makes the ids of the one that the file came from."""

import itertools
import json
import logging

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings, strategies as st
from transformers.tokenization_utils_base import generate_merges

from engine.errors import LoadError
from engine.text.gguf_tokenizer import build_tokenizer
from engine.text.sentencepiece import merges_from_scores

relaxed = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def test_merges_are_in_the_order_of_the_published_conversion(sentencepiece):
    scores = sentencepiece.piece_scores
    expected = generate_merges(sentencepiece.ids, scores)
    pieces = {piece: sentencepiece.ids[piece] for piece in scores}
    assert merges_from_scores(pieces, scores) == expected


def test_sentencepiece_joins_the_best_pair_first(sentencepiece):
    tokenizer = build_tokenizer(sentencepiece.metadata(add_space_prefix=False))
    plain = st.text(max_size=30) | st.lists(
        st.sampled_from(
            ["the ", "quick", "then", "  ", " ", "int", "def ", "ö", "世界", "\n", "ae"]
        )
    ).map("".join)

    @relaxed
    @given(plain)
    def check(text: str) -> None:
        assert tokenizer.encode(text, add_special_tokens=False) == sentencepiece.encode(text)

    check()


def test_a_space_goes_before_each_stretch_of_text_unless_the_file_says_no(sentencepiece):
    with_space = build_tokenizer(sentencepiece.metadata())
    without = build_tokenizer(sentencepiece.metadata(add_space_prefix=False))
    expected = [*sentencepiece.encode(" the"), 2, *sentencepiece.encode(" then")]
    assert with_space.encode("the</s>then", add_special_tokens=False) == expected
    assert without.encode("the", add_special_tokens=False) == sentencepiece.encode("the")
    assert with_space.encode("", add_special_tokens=False) == []


def test_characters_outside_the_vocabulary_become_bytes(sentencepiece):
    tokenizer = build_tokenizer(sentencepiece.metadata(add_space_prefix=False))
    ids = tokenizer.encode("\U0001f9ff", add_special_tokens=False)
    assert [tokenizer.token_bytes(i) for i in ids] == [b"\xf0", b"\x9f", b"\xa7", b"\xbf"]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, ["<s>"]),
        ({"add_bos_token": False}, []),
        ({"add_eos_token": True}, ["<s>", "</s>"]),
        ({"add_bos_token": False, "add_eos_token": True}, ["</s>"]),
    ],
    ids=["as sentencepiece", "no bos", "both", "eos only"],
)
def test_bos_and_eos_are_added_as_the_file_says(sentencepiece, extra, expected):
    tokenizer = build_tokenizer(sentencepiece.metadata(**extra))
    assert tokenizer.encode("") == [sentencepiece.ids[token] for token in expected]


@pytest.mark.parametrize(
    ("pre", "has_bos"), [("llama-bpe", True), ("gpt-2", False), ("qwen2", False)]
)
def test_byte_level_files_that_are_silent_on_bos_follow_their_profile(
    gpt2, byte_level_metadata, pre, has_bos
):
    tokenizer = build_tokenizer(byte_level_metadata(gpt2, pre))
    assert tokenizer.encode("") == ([tokenizer.bos_id] if has_bos else [])


@pytest.mark.parametrize("pre", [None, "no-such-profile"])
def test_an_unknown_profile_is_gpt2_with_a_warning(gpt2, byte_level_metadata, caplog, pre):
    with caplog.at_level(logging.WARNING):
        tokenizer = build_tokenizer(byte_level_metadata(gpt2, pre))
    assert "tokenizer.ggml.pre" in caplog.text
    text = "They're 12345 hens"
    assert tokenizer.encode(text) == gpt2.encode(text).ids


def test_a_known_profile_gives_no_warning(gpt2, byte_level_metadata, caplog):
    build_tokenizer(byte_level_metadata(gpt2, "gpt-2"))
    assert not caplog.records


def test_names_and_end_ids_come_from_the_file(gpt2, byte_level_metadata):
    eot = gpt2.token_to_id("<|im_end|>")
    tokenizer = build_tokenizer(byte_level_metadata(gpt2, "gpt-2", eot_token_id=eot))
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert tokenizer.bos_id == gpt2.token_to_id("<s>")
    assert tokenizer.eos_ids == {gpt2.token_to_id("</s>"), eot}
    assert tokenizer.vocab_size == gpt2.get_vocab_size()


def test_control_tokens_are_special_and_user_defined_ones_are_text(gpt2, byte_level_metadata):
    tokenizer = build_tokenizer(byte_level_metadata(gpt2, "gpt-2"))
    ids = tokenizer.encode("<|im_start|>a<tool_call>")
    assert ids[0] == gpt2.token_to_id("<|im_start|>")
    assert tokenizer.decode(ids) == "a<tool_call>"


def test_an_end_token_typed_as_text_is_still_special(gpt2, byte_level_metadata):
    metadata = byte_level_metadata(gpt2, "gpt-2")
    types = metadata["tokenizer.ggml.token_type"]
    types[gpt2.token_to_id("</s>")] = 1
    tokenizer = build_tokenizer(metadata)
    assert tokenizer.decode(tokenizer.encode("a</s>")) == "a"


def test_a_file_without_token_types_has_them_guessed(sentencepiece):
    metadata = sentencepiece.metadata()
    del metadata["tokenizer.ggml.token_type"]
    tokenizer = build_tokenizer(metadata)
    text = "the quick <s> Ω"
    assert tokenizer.encode(text) == build_tokenizer(sentencepiece.metadata()).encode(text)
    assert tokenizer.special_ids == {0, 1, 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "kind 'bert', not llama, gpt2, gemma4, t5;"),
        ({"tokenizer.ggml.model": None}, "kind None"),
        ({"tokenizer.ggml.tokens": None}, "no tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.merges": None}, "no tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["nonsense"]}, "damaged"),
        ({"tokenizer.ggml.merges": ["xyzzy plugh"]}, "damaged"),
        ({"tokenizer.ggml.token_type": [1]}, "damaged"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(gpt2, byte_level_metadata, change, message):
    with pytest.raises(LoadError, match=message):
        build_tokenizer(byte_level_metadata(gpt2, "gpt-2") | change)


def test_a_user_defined_run_of_spaces_is_found_whole(sentencepiece):
    """Gemma's vocabulary has no first space and defines such runs."""
    types = list(sentencepiece.types)
    for piece in ("▁▁", "▁▁▁▁"):
        types[sentencepiece.ids[piece]] = 4
    metadata = sentencepiece.metadata(add_space_prefix=False, token_type=types)
    tokenizer = build_tokenizer(metadata)
    ids = tokenizer.encode("      the", add_special_tokens=False)
    runs = [sentencepiece.ids["▁▁▁▁"], sentencepiece.ids["▁▁"]]
    assert ids == [*runs, *sentencepiece.encode("the")]
    assert tokenizer.decode(ids) == "      the"


@pytest.mark.parametrize("kind", [3, 4], ids=["control", "user-defined"])
def test_phi3_s_added_tokens_swallow_the_white_space_behind_them(sentencepiece, kind):
    """Its `</s>` is user-defined in a file, as tokenizer.json does not call it special."""
    types = list(sentencepiece.types)
    types[sentencepiece.ids["<|im_end|>"]] = kind
    phi3 = sentencepiece.metadata(token_type=types) | {"general.architecture": "phi3"}
    text = "<|im_end|>\n the<s>\n the"
    the = sentencepiece.encode(" the")
    kept = sentencepiece.encode(" \n the")
    end, bos = sentencepiece.ids["<|im_end|>"], sentencepiece.ids["<s>"]
    ids = build_tokenizer(phi3).encode(text, add_special_tokens=False)
    assert ids == [end, *the, bos, *kept]
    ids = build_tokenizer(sentencepiece.metadata()).encode(text, add_special_tokens=False)
    assert ids == [end, *kept, bos, *kept]


def test_sentencepiece_bpe_keeps_runs_of_spaces_whatever_the_file_says(sentencepiece, llama):
    tokenizer = build_tokenizer(sentencepiece.metadata(remove_extra_whitespaces=True))
    text = "  the   quick  "
    assert tokenizer.encode(text) == llama.encode(text).ids


def test_a_ggml_vocabulary_without_types_names_or_escapes_is_that_of_its_model(sentencepiece):
    """ggml's first files have bare bytes for tokens, and their own signs for the first three."""
    pieces = [token.replace("▁", " ") for token in sentencepiece.tokens[259:]]
    raw = [" \u2047 ", "", "", *[chr(byte) if byte < 128 else "\ufffd" for byte in range(256)]]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*raw, *pieces],
        "tokenizer.ggml.scores": sentencepiece.scores,
    }
    tokenizer = build_tokenizer(metadata)
    text = "the quick 世界\nΩ\U0001f9ff"
    ids = tokenizer.encode(text)
    assert ids == build_tokenizer(sentencepiece.metadata()).encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.special_tokens == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    assert tokenizer.bos_id == 1
    assert tokenizer.eos_ids == {2}


def test_a_ggml_vocabulary_with_names_is_taken_as_it_is(sentencepiece):
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": sentencepiece.tokens,
        "tokenizer.ggml.scores": sentencepiece.scores,
    }
    text = "the quick 世界\nΩ"
    tokenizer = build_tokenizer(metadata)
    assert tokenizer.encode(text) == build_tokenizer(sentencepiece.metadata()).encode(text)


def test_a_gemma4_vocabulary_is_sentencepiece_s_pieces_and_a_list_of_merges(
    llama, sentencepiece, any_text
):
    document = json.loads(llama.to_str())
    document["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    original = tokenizers.Tokenizer.from_str(json.dumps(document))
    merges = [" ".join(pair) for pair in document["model"]["merges"]]
    metadata = sentencepiece.metadata(model="gemma4", merges=merges, scores=None)
    tokenizer = build_tokenizer(metadata)

    @relaxed
    @given(any_text)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert ids == original.encode(text).ids
        assert tokenizer.encode("") == [1]

    check()


def test_a_t5_vocabulary_is_cut_at_the_highest_sum_of_scores():
    scores = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": -3.0, "a": -2.0, "b": -2.5, "ab": -4.0}
    scores |= {"▁a": -4.5, "▁ab": -7.5, "bb": -6.0, "aab": -9.0}
    metadata = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": list(scores),
        "tokenizer.ggml.scores": list(scores.values()),
        "tokenizer.ggml.token_type": [3, 3, 2, *[1] * 8],
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 2,
        "tokenizer.ggml.remove_extra_whitespaces": True,
    }
    tokenizer = build_tokenizer(metadata)
    names = list(scores)
    for text in ("".join(p) for n in range(1, 6) for p in itertools.product("ab ", repeat=n)):
        spaced = "▁" + "▁".join(text.split()) if text.split() else ""
        best = best_cut(spaced, scores)
        encoded = tokenizer.encode(text, add_special_tokens=False)
        assert sum(scores[names[i]] for i in encoded) == pytest.approx(best)
        assert tokenizer.decode(encoded) == " ".join(text.split())
    assert tokenizer.encode("a") == [*tokenizer.encode("a", add_special_tokens=False), 1]


def best_cut(text: str, scores: dict[str, float]) -> float:
    """The sum of the best cut, by trying them all."""
    if not text:
        return 0.0
    heads = [text[:n] for n in range(1, len(text) + 1) if text[:n] in scores]
    return max(scores[head] + best_cut(text[len(head) :], scores) for head in heads)
