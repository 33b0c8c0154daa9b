"""Texts and pairs as an encoder's input, beside transformers."""

import pytest
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, processors, trainers

from engine.errors import InvalidInput
from engine.text.decoding import parse_decoder
from engine.text.model_input import model_input
from engine.text.tokenizer import Tokenizer

TEXTS = ["the quick brown fox", "jumps", "over the lazy dog and over all the other dogs again", ""]


@pytest.fixture(scope="module", params=["bert", "roberta", "end", "bare"])
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
    if request.param in made:
        backend.post_processor = made[request.param]
    return backend


@pytest.fixture(scope="module")
def theirs(backend):
    copy = tokenizers.Tokenizer.from_str(backend.to_str())  # it sets truncation in the one it has
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=copy, unk_token="[UNK]", pad_token="[SEP]"
    )
    fast.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return fast


@pytest.mark.parametrize("max_tokens", [0, 4, 5, 8, 11, 100])
@pytest.mark.parametrize("second", [None, *filter(None, TEXTS)])  # "" is none to transformers
@pytest.mark.parametrize("first", TEXTS)
def test_it_is_what_transformers_makes_cut_or_not(backend, theirs, first, second, max_tokens):
    ids, type_ids = model_input(
        backend, (first,) if second is None else (first, second), max_tokens
    )
    cut = {"truncation": True, "max_length": max_tokens} if max_tokens else {}
    expected = theirs(first, second, **cut)
    assert ids == expected["input_ids"]
    assert type_ids == expected["token_type_ids"]


def test_the_second_text_can_have_a_bound_of_its_own(backend):
    short = model_input(backend, (TEXTS[0], "over the"))
    assert model_input(backend, (TEXTS[0], "over the lazy dog"), 0, 2) == short
    assert model_input(backend, (TEXTS[0], "over the"), 0, 9) == short


def test_what_is_not_unicode_is_refused(backend):
    tokenizer = Tokenizer(backend, parse_decoder({"type": "ByteLevel"}), {})
    with pytest.raises(InvalidInput, match="not Unicode"):
        tokenizer.encode_input("a", "\ud800")
