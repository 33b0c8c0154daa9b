"""Gives a tiny model's directory a byte-level BPE tokenizer of its own. Knows no engine code."""

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
_TEXT = ["the quick brown fox jumps over the lazy dog, 12345 times; then it's the hen's turn"] * 3


def write_tokenizer(directory: Path, size: int = 300) -> tokenizers.Tokenizer:
    """tokenizer.json of `size` tokens, of which the first three are <unk>, <s> and </s>."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer
