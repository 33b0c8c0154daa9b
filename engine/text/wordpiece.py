"""BERT's tokenizer from its list of words, for directories without tokenizer.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from engine.errors import LoadError
from engine.text.decoding import parse_decoder
from engine.text.special_tokens import named_tokens
from engine.text.tokenizer import Tokenizer

_NAMES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def load_wordpiece(
    directory: Path, settings: Mapping[str, Any], added: Mapping[int, AddedToken]
) -> Tokenizer:
    """Read vocab.txt, a word a line, as transformers' BertTokenizer does; settings as it has them.

    Raises LoadError if it lacks the tokens that a text is put between.
    """
    path = directory / "vocab.txt"
    words = path.read_text("utf-8").split("\n")
    ids = {word.rstrip("\r"): id_ for id_, word in enumerate(words) if word.rstrip("\r")}
    names = {**_NAMES, **named_tokens(settings)}
    if missing := [text for text in names.values() if text not in ids and text in _NAMES.values()]:
        raise LoadError(f"{path} has no {missing[0]}; put a tokenizer.json there.")
    model = models.WordPiece(ids, unk_token=names["unk_token"], max_input_chars_per_word=100)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    cls, sep = names["cls_token"], names["sep_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
    )
    known = [names[name] for name in names if names[name] in ids]
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in known])
    backend.add_tokens([token for token in added.values() if not token.special])
    rule = parse_decoder({"type": "WordPiece", "prefix": "##", "cleanup": True})
    return Tokenizer(backend, rule, names)
