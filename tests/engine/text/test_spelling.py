"""A text in the middle of an answer is spelled in tokens that are exactly that text."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from engine.text.constraint import grammar_of
from engine.text.grammar import make_matcher, make_vocabulary
from engine.text.spelling import MAX_CHARS, Spelling
from engine.text.text_model import load_vocabulary
from engine.weights.files import BUILTIN, ModelRef, resolve
from tests.engine.models import tiny

DATA = Path(__file__).parent / "data"
TEXTS = st.text(st.sampled_from('abc the\n "{}:,1é😀'), max_size=12)


@pytest.fixture(scope="module", params=["llama", "gemma", "unigram", "normalizing", "builtin"])
def tokenizer(request, tmp_path_factory):
    if request.param == "builtin":
        return load_vocabulary(resolve(ModelRef(model=BUILTIN)))
    folder = tmp_path_factory.mktemp(request.param)
    tiny.save_checkpoint("llama", folder)
    (folder / "tokenizer.model").write_bytes((DATA / f"{request.param}.model").read_bytes())
    return load_vocabulary(resolve(ModelRef(model=str(folder))))


@pytest.fixture(scope="module")
def pieces(tokenizer):
    return [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]


def test_the_tokens_are_the_text_as_far_as_it_can_be_written(tokenizer, pieces):
    spelling = Spelling(tokenizer, pieces)
    letters = {piece for i, piece in enumerate(pieces) if i not in tokenizer.special_ids}

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(TEXTS)
    def check(text):
        wanted = text.encode()
        spelled = b"".join(pieces[i] for i in spelling.ids(text))
        assert wanted.startswith(spelled)
        rest = wanted[len(spelled) :]
        assert not any(rest.startswith(piece) for piece in letters if piece)

    check()


def test_a_word_is_cut_as_in_a_text(tokenizer, pieces):
    whole = tokenizer.encode("the the", add_special_tokens=False)
    ids = Spelling(tokenizer, pieces).ids(" the")
    assert ids == whole[-len(ids) :]
    assert b"".join(pieces[i] for i in ids) == b" the"


def test_of_a_long_text_the_beginning_is_spelled_as_in_the_whole(tokenizer, pieces):
    text = "the quick brown fox, " * 5000
    ids = Spelling(tokenizer, pieces).ids(text)
    assert len(b"".join(pieces[i] for i in ids)) <= MAX_CHARS
    whole = Spelling(tokenizer, pieces).ids(text[: MAX_CHARS - 20].rstrip())
    assert ids[: len(ids) - 8] == whole[: len(ids) - 8]


def test_what_reads_like_a_special_token_is_none(tokenizer, pieces):
    end = tokenizer.decode([min(tokenizer.eos_ids or {2})], skip_special_tokens=False)
    vocabulary = make_vocabulary(tokenizer, tokenizer.vocab_size, more_eos_ids=[2]).tokenizer
    matcher = make_matcher(vocabulary, grammar_of("choice", [f"a{end}b"], is_led=False))
    spelling = Spelling(tokenizer, pieces)
    ids = [*spelling.ids("a"), *spelling.ids(end), *spelling.ids("b")]
    if b"".join(pieces[i] for i in ids) == f"a{end}b".encode():
        assert not tokenizer.special_ids & set(ids)
        assert matcher.try_consume_tokens(ids) == len(ids)
        assert matcher.is_accepting()
