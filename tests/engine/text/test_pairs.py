"""What embedding models and cross-encoders read: ids and types as transformers has them."""

import json

import pytest
import transformers
from hypothesis import HealthCheck, given, settings, strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from engine.errors import InvalidInput, LoadError
from engine.text.detokenizer import Detokenizer
from engine.text.hf_tokenizer import load_tokenizer
from engine.text.tokenizer import shortened
from tests.engine.text.conftest import CORPUS

relaxed = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
BERT_NAMES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
ROBERTA_NAMES = {
    **{"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>"},
    **{"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"},
}


def between(backend, single, pair, *tokens):
    """Have the backend put a text, or two, between special tokens."""
    backend.post_processor = processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(token, backend.token_to_id(token)) for token in tokens],
    )
    return backend


def bert(directory):
    """WordPiece, types 0 and 1, as BERT's published files have it."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=400,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    pair = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
    between(backend, "[CLS]:0 $A:0 [SEP]:0", pair, "[CLS]", "[SEP]")
    return write(directory, backend, BERT_NAMES)


def xlm_roberta(directory):
    """Unigram, two separators between the texts, no types."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC()])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        unk_token="<unk>",
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    between(backend, "<s> $A </s>", "<s> $A </s> </s> $B </s>", "<s>", "</s>")
    return write(directory, backend, ROBERTA_NAMES)


def roberta(directory):
    """Byte-level BPE with the processor of RoBERTa's own."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return write(directory, backend, ROBERTA_NAMES)


def write(directory, backend, names):
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(names))
    return directory


KINDS = {"bert": bert, "xlm-roberta": xlm_roberta, "roberta": roberta}
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    made = {}
    for name, make in KINDS.items():
        (root / name).mkdir()
        made[name] = make(root / name)
    return made


def both(directory):
    return load_tokenizer(directory), transformers.PreTrainedTokenizerFast.from_pretrained(
        directory
    )


def fields(encoding):
    return encoding["input_ids"], encoding["token_type_ids"]


@kinds
def test_ids_and_types_are_those_of_transformers(kind, directories, any_text):
    tokenizer, reference = both(directories[kind])

    @relaxed
    @given(any_text, any_text.filter(len), st.none() | st.integers(4, 30))  # "" is no second
    def check(first, second, limit):
        cut = {"truncation": limit is not None, "max_length": limit}
        cut |= {"return_token_type_ids": True}
        assert tokenizer.encode_text(first, limit) == fields(reference(first, **cut))
        assert tokenizer.encode_pair(first, second, limit) == fields(
            reference(first, second, **cut)
        )

    check()


@kinds
def test_a_text_reads_back_token_by_token_as_the_library_reads_it(kind, directories, any_text):
    tokenizer, reference = both(directories[kind])

    @relaxed
    @given(any_text)
    def check(text):
        ids = tokenizer.encode_text(text).ids
        stream = Detokenizer(tokenizer)
        streamed = "".join(stream.push([id_]) for id_ in ids) + stream.flush()
        assert streamed == reference.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    check()


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 30))
def test_of_two_texts_the_longer_one_is_cut(first, second, limit):
    short, long = sorted(shortened([first, second], limit))
    assert short + long == min(first + second, limit)
    assert short == min(first, second) or long - short <= 1
    assert sorted(shortened([second, first], limit)) == [short, long]


def test_the_second_text_can_have_a_bound_of_its_own(directories):
    tokenizer = load_tokenizer(directories["bert"])
    longer = "over the lazy dog"
    (second,) = tokenizer._encodings(["over the"], False)
    short = tokenizer.encode_pair("the fox", "over the")
    assert tokenizer.encode_pair("the fox", longer, max_second=len(second)) == short
    assert tokenizer.encode_pair("the fox", "over the", max_second=99) == short


def test_no_room_for_the_models_own_tokens_is_refused(directories):
    tokenizer = load_tokenizer(directories["bert"])
    assert tokenizer.encode_text("text", 2).ids == tokenizer.encode_text("").ids
    with pytest.raises(InvalidInput, match="1 tokens have no room for the 2"):
        tokenizer.encode_text("text", 1)
    with pytest.raises(InvalidInput, match="2 tokens have no room for the 3"):
        tokenizer.encode_pair("text", "other", 2)


def test_half_a_surrogate_pair_is_refused(directories):
    tokenizer = load_tokenizer(directories["bert"])
    with pytest.raises(InvalidInput, match="not Unicode"):
        tokenizer.encode_pair("a", "\ud800")


def test_sentence_transformers_may_want_lower_case(directories, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((directories["roberta"] / name).read_bytes())
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    plain, lower = load_tokenizer(directories["roberta"]), load_tokenizer(tmp_path)
    assert lower.encode_text("The QUICK Fox") == plain.encode_text("the quick fox")
    assert plain.encode_text("The QUICK Fox") != plain.encode_text("the quick fox")


@pytest.fixture
def word_list(directories, tmp_path):
    """The directory of a BERT of before tokenizer.json."""
    vocabulary = load_tokenizer(directories["bert"])
    words = [vocabulary._backend.id_to_token(id_) or "" for id_ in range(vocabulary.vocab_size)]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    return tmp_path


@pytest.mark.parametrize("is_lower", [True, False, None], ids=["lower", "cased", "not-said"])
def test_a_list_of_words_is_berts_tokenizer(is_lower, word_list, any_text):
    said = {} if is_lower is None else {"do_lower_case": is_lower}
    (word_list / "tokenizer_config.json").write_text(json.dumps(said))
    tokenizer = load_tokenizer(word_list)
    reference = transformers.BertTokenizer.from_pretrained(word_list)

    @relaxed
    @given(any_text, any_text.filter(len))
    def check(first, second):
        assert tokenizer.encode_text(first) == fields(reference(first))
        assert tokenizer.encode_pair(first, second) == fields(reference(first, second))

    check()


def test_a_list_of_words_without_berts_tokens_is_refused(word_list):
    path = word_list / "vocab.txt"
    path.write_text(path.read_text().replace("[SEP]", "SEP"))
    with pytest.raises(LoadError, match=r"no \[SEP\]"):
        load_tokenizer(word_list)
