"""The streamed text is the whole text, whatever the grouping; no character waits or is split."""

import itertools
import json

import pytest
import tokenizers
from hypothesis import HealthCheck, assume, given, settings, strategies as st

from engine.text.decoding import parse_decoder
from engine.text.detokenizer import Detokenizer
from engine.text.gguf_tokenizer import build_tokenizer
from engine.text.tokenizer import Tokenizer

relaxed = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


KINDS = ["gpt-2", "llama", "llama without a first space"]


@pytest.fixture(scope="module", params=KINDS)
def pair(request, gpt2, byte_level_metadata, llama, sentencepiece):
    """Our tokenizer, and the original that says what the text is."""
    if request.param == "gpt-2":
        return build_tokenizer(byte_level_metadata(gpt2, "gpt-2")), gpt2
    if request.param == "llama":
        return build_tokenizer(sentencepiece.metadata()), llama
    original = tokenizers.Tokenizer.from_str(llama.to_str())
    steps = [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback()]
    original.decoder = tokenizers.decoders.Sequence([*steps, tokenizers.decoders.Fuse()])
    return build_tokenizer(sentencepiece.metadata(add_space_prefix=False)), original


def cut(ids: list[int], data: st.DataObject) -> list[list[int]]:
    """The ids in groups, some of them empty."""
    places = data.draw(st.lists(st.integers(0, len(ids)), max_size=6).map(sorted))
    return [ids[a:b] for a, b in itertools.pairwise([0, *places, len(ids)])]


def stream(tokenizer: Tokenizer, groups: list[list[int]], *, skips: bool = True) -> str:
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skips)
    return "".join(detokenizer.push(group) for group in groups) + detokenizer.flush()


def test_the_streamed_text_of_a_text_is_the_full_decode(pair, any_text):
    tokenizer, original = pair

    @relaxed
    @given(any_text, st.data())
    def check(text: str, data: st.DataObject) -> None:
        ids = original.encode(text).ids
        assert stream(tokenizer, cut(ids, data)) == original.decode(ids, skip_special_tokens=True)

    check()


@pytest.mark.parametrize("skips", [True, False], ids=["special-skipped", "special-shown"])
def test_the_streamed_text_of_any_ids_is_the_full_decode(pair, skips):
    tokenizer, original = pair
    ids_strategy = st.lists(st.integers(0, tokenizer.vocab_size + 5), max_size=25)
    bytes_strategy = st.lists(st.integers(0, 300), max_size=12)

    @relaxed
    @given(ids_strategy | bytes_strategy, st.data())
    def check(ids: list[int], data: st.DataObject) -> None:
        assume(tokenizer.rule.is_byte_level or not shows_before_a_fault(tokenizer, ids, skips))
        expected = original.decode(ids, skip_special_tokens=skips)
        assert stream(tokenizer, cut(ids, data), skips=skips) == expected

    check()


def shows_before_a_fault(tokenizer: Tokenizer, ids: list[int], skips: bool) -> bool:
    """The documented exception: a run of bytes that begins with a character and is not UTF-8."""
    skipped = tokenizer.special_ids if skips else frozenset()
    visible = [i for i in ids if i < tokenizer.vocab_size and i not in skipped]
    for is_byte, group in itertools.groupby(visible, lambda i: 3 <= i < 259):
        run = b"".join(tokenizer.token_bytes(i) for i in group) if is_byte else b""
        try:
            run.decode()
        except UnicodeDecodeError as error:
            if error.start:
                return True
    return False


def test_the_grouping_changes_nothing(pair):
    tokenizer, _ = pair

    @relaxed
    @given(st.lists(st.integers(0, 300), max_size=20), st.data())
    def check(ids: list[int], data: st.DataObject) -> None:
        assert stream(tokenizer, cut(ids, data)) == stream(tokenizer, [[i] for i in ids])

    check()


def test_a_character_comes_with_its_last_byte_and_not_before(pair, any_text):
    tokenizer, original = pair

    @relaxed
    @given(any_text)
    def check(text: str) -> None:
        detokenizer, shown, raw = Detokenizer(tokenizer, is_continuation=True), "", b""
        for id_ in original.encode(text, add_special_tokens=False).ids:
            shown += detokenizer.push([id_])
            raw += b"" if id_ in tokenizer.special_ids else tokenizer.token_bytes(id_)
            assert shown == raw.decode(errors="ignore")

    check()


def test_characters_before_a_fault_in_a_run_of_bytes_stay_shown(sentencepiece):
    tokenizer = build_tokenizer(sentencepiece.metadata())
    ids = [sentencepiece.ids[f"<0x{byte:02X}>"] for byte in b"\xc3\xa9\xff\xc3\xa9"]
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(ids) == "é\ufffd\ufffd\ufffd"
    assert detokenizer.push([sentencepiece.ids["a"]]) == "a"


def test_an_unfinished_character_is_flushed_as_a_replacement(pair):
    tokenizer, original = pair
    ids = original.encode("\U0001f9ff", add_special_tokens=False).ids
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(ids[:-1]).strip() == ""
    assert set(detokenizer.flush()) == {"\ufffd"}


def test_a_continuation_keeps_its_first_space(sentencepiece):
    tokenizer = build_tokenizer(sentencepiece.metadata())
    ids = tokenizer.encode("the the", add_special_tokens=False)
    assert Detokenizer(tokenizer).push(ids) == "the the"
    assert Detokenizer(tokenizer, is_continuation=True).push(ids) == " the the"


def test_every_decoder_step_of_a_supported_kind_is_followed():
    spec = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "_"}, "content": "-"},
            {"type": "Fuse"},
            {"type": "Strip", "content": "x", "start": 2, "stop": 0},
        ],
    }
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"x": 0, "xy_": 1, "<0x41>": 2}, []))
    steps = [tokenizers.decoders.Replace("_", "-"), tokenizers.decoders.Fuse()]
    backend.decoder = tokenizers.decoders.Sequence([*steps, tokenizers.decoders.Strip("x", 2, 0)])
    tokenizer = Tokenizer(backend, parse_decoder(spec), {})
    for ids in itertools.product(range(3), repeat=4):
        assert stream(tokenizer, [[i] for i in ids]) == backend.decode(list(ids))


@pytest.fixture(scope="module", params=["always", "first", "never"])
def metaspace(request, llama):
    """A tokenizer whose decoder takes spaces off the first token only, as T5's does."""
    original = tokenizers.Tokenizer.from_str(llama.to_str())
    original.decoder = tokenizers.decoders.Metaspace(prepend_scheme=request.param)
    spec = json.loads(original.to_str())["decoder"]
    return Tokenizer(original, parse_decoder(spec), {}), original


def test_a_metaspace_decoder_is_followed_token_by_token(metaspace):
    tokenizer, original = metaspace

    @relaxed
    @given(st.lists(st.integers(0, tokenizer.vocab_size + 5), max_size=25), st.data())
    def check(ids: list[int], data: st.DataObject) -> None:
        assert stream(tokenizer, cut(ids, data)) == original.decode(ids, skip_special_tokens=True)

    check()


def test_a_metaspace_decoder_keeps_the_spaces_of_a_continuation(metaspace):
    tokenizer, _ = metaspace
    ids = tokenizer.encode("the the", add_special_tokens=False)
    assert Detokenizer(tokenizer, is_continuation=True).push(ids) == " the the"
