"""Texts and pairs as an encoder's input, beside transformers."""

import pytest
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, processors, trainers

from engine.errors import InvalidInput
from engine.text.decoding import parse_decoder
from engine.text.tokenizer import Tokenizer

TEXTS = ["the quick brown fox", "jumps", "over the lazy dog and over all the other dogs again", ""]


@pytest.fixture(scope="module", params=["bert", "roberta", "end"])
def backend(request):
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=specials, show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    cls, sep = (("[CLS]", 1), ("[SEP]", 2))
    made = {
        "bert": processors.BertProcessing(sep, cls),
        "roberta": processors.RobertaProcessing(sep, cls),
        "end": processors.TemplateProcessing(
            single="$A [SEP]", pair="$A [SEP] $B:1 [SEP]:1", special_tokens=[sep]
        ),
    }
    backend.post_processor = made[request.param]
    return backend


@pytest.fixture(scope="module")
def ours(backend):
    return Tokenizer(backend, parse_decoder({"type": "WordPiece", "prefix": "##"}), {})


@pytest.fixture(scope="module")
def theirs(backend):
    copy = tokenizers.Tokenizer.from_str(backend.to_str())  # it sets truncation in the one it has
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=copy, unk_token="[UNK]", pad_token="[SEP]"
    )
    fast.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return fast


@pytest.mark.parametrize("max_tokens", [None, 4, 5, 8, 11, 100])
@pytest.mark.parametrize("second", [None, *filter(None, TEXTS)])  # "" is none to transformers
@pytest.mark.parametrize("first", TEXTS)
def test_it_is_what_transformers_makes_cut_or_not(ours, theirs, first, second, max_tokens):
    made = (
        ours.encode_text(first, max_tokens)
        if second is None
        else ours.encode_pair(first, second, max_tokens)
    )
    cut = {"truncation": True, "max_length": max_tokens} if max_tokens else {}
    expected = theirs(first, second, **cut)
    assert made.ids == expected["input_ids"]
    assert made.type_ids == expected["token_type_ids"]


def test_the_second_text_can_have_a_bound_of_its_own(ours):
    short = ours.encode_pair(TEXTS[0], "over the")
    assert ours.encode_pair(TEXTS[0], "over the lazy dog", max_second=2) == short
    assert ours.encode_pair(TEXTS[0], "over the", max_second=9) == short


def test_what_is_not_unicode_is_refused(ours):
    with pytest.raises(InvalidInput, match="not Unicode"):
        ours.encode_pair("a", "\ud800")


def test_a_cut_that_leaves_no_room_for_the_special_tokens_is_refused(ours):
    with pytest.raises(InvalidInput, match="no room"):
        ours.encode_pair("a", "b", 0)
