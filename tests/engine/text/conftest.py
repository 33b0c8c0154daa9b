"""Tokenizers trained on the spot, and what a GGUF converter would write for them."""

import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import pytest
import tokenizers
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.engine.text.published_splits import PUBLISHED

CORPUS = [
    "The quick brown fox doesn't jump over the lazy dog; it's 2024, they'LL say we've 12345 hens.",
    "def main(argv: list[str]) -> int:\n    return sum(int(x) for x in argv[1:])  # total\n\n\n",
    "Wie schön! Ça va très bien, naïve façade. Привет, мир! Καλημέρα κόσμε. Straße 99%",
    "你好世界。今天天气很好。こんにちは世界、元気ですか。안녕하세요 세계 여러분",
    "emoji 😀😀 👩‍👩‍👧 🇩🇪 ❤️ math ∑∫√ ½ ² Ⅷ     spaces\t\ttabs\r\nlines and the the the then there",
    '{"name": "value", "list": [1, 2, 3], "nested": {"a": null}} == != <= >= ... --- ***',
] * 3

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<tool_call>", "    "]

_FRAGMENTS = [
    *["it's", "THEY'LL", " don't", "we'Ve", "1234567", "3.14", " 42", "½", "Ⅷ"],
    *[" ", "  ", "     ", "\n", "\r\n", "\n\n\n", "\t", "\u3000", "\u00a0"],
    *["if x != y:\n    return [1, 2]", "a/b/c", "foo_bar(baz);", "#!/bin/sh\n"],
    *["你好", "世界", "こんにちは", "안녕", "Привет", "naïve", "nai\u0308ve", "e\u0301", "ﬁ"],
    *["😀", "👩‍👩‍👧", "🇩🇪", "❤️", "\u200d", "\x00", "\ufffd", "\U0010ffff", "▁", "Ġ"],
    *["the", "The", " the", "quick", "<s>", "</s>", "<|im_end|>", "<tool_call>", "<0x41>", "<unk>"],
]


@pytest.fixture(scope="session")
def any_text() -> st.SearchStrategy[str]:
    """Any Unicode, and mixtures of what tends to break tokenizers."""
    fragments = st.sampled_from(_FRAGMENTS) | st.text(max_size=4)
    return st.text(max_size=40) | st.lists(fragments, max_size=12).map("".join)


@pytest.fixture(scope="session")
def mixtures() -> list[str]:
    """A few hundred of such mixtures, the same ones each time."""
    random = Random(1)
    mixed = ["".join(random.choices(_FRAGMENTS, k=random.randint(2, 10))) for _ in range(500)]
    return [*_FRAGMENTS, *dict.fromkeys(CORPUS), *mixed]


@pytest.fixture(scope="session")
def uncut(mixtures: list[str]) -> tokenizers.Tokenizer:
    """A byte-level BPE whose tokens span words and scripts, so that every cut shows in the ids."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _trained(backend, mixtures, vocab_size=4000)


def train_byte_level(pre: str) -> tokenizers.Tokenizer:
    """A byte-level BPE laid out as the models that use the profile publish it."""
    normalizer, steps = PUBLISHED[pre]
    empty: dict[str, Any] = {
        "model": {"type": "BPE", "vocab": {}, "merges": []},
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "added_tokens": [],
    }
    backend = tokenizers.Tokenizer.from_str(json.dumps(empty))
    backend.decoder = decoders.ByteLevel()
    backend = _trained(backend, CORPUS, vocab_size=500)
    if pre in ("llama-bpe", "tekken", "minicpm5"):
        backend.model.ignore_merges = True
    return backend


def _trained(
    backend: tokenizers.Tokenizer, texts: list[str], vocab_size: int
) -> tokenizers.Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False, special=True) for token in SPECIAL]
    )
    backend.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in USER_DEFINED])
    return backend


@pytest.fixture(scope="session", params=list(PUBLISHED))
def byte_level(request: pytest.FixtureRequest) -> tuple[str, tokenizers.Tokenizer]:
    """A profile's name and a tokenizer of that profile."""
    return request.param, train_byte_level(request.param)


@pytest.fixture(scope="session")
def llama3() -> tokenizers.Tokenizer:
    return train_byte_level("llama-bpe")


@pytest.fixture(scope="session")
def train() -> Callable[[str], tokenizers.Tokenizer]:
    """Makes a tokenizer of a profile."""
    return train_byte_level


@pytest.fixture(scope="session")
def gpt2() -> tokenizers.Tokenizer:
    return train_byte_level("gpt-2")


@pytest.fixture(scope="session")
def byte_level_metadata() -> Callable[..., dict[str, Any]]:
    """Makes what a converter writes for a byte-level tokenizer."""
    return _byte_level_metadata


def _byte_level_metadata(
    backend: tokenizers.Tokenizer, pre: str | None, **extra: Any
) -> dict[str, Any]:
    vocab = backend.get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    kinds = dict.fromkeys(SPECIAL, 3) | dict.fromkeys(USER_DEFINED, 4)
    merges = [" ".join(pair) for pair in _merges(backend)]
    keys = {
        "model": "gpt2",
        "tokens": tokens,
        "token_type": [kinds.get(token, 1) for token in tokens],
        "merges": merges,
        "bos_token_id": vocab["<s>"],
        "eos_token_id": vocab["</s>"],
        **({"pre": pre} if pre else {}),
        **extra,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def _merges(backend: tokenizers.Tokenizer) -> list[list[str]]:
    merges: list[list[str]] = json.loads(backend.to_str())["model"]["merges"]
    return merges


class SentencePiece:
    """A SentencePiece BPE vocabulary: pieces, scores, types, and the obvious algorithm."""

    def __init__(self) -> None:
        pieces = _train_pieces()
        byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
        self.tokens = ["<unk>", "<s>", "</s>", *byte_tokens, *pieces, "<|im_end|>", "<tool_call>"]
        self.types = [2, 3, 3, *[6] * 256, *[1] * len(pieces), 3, 4]
        self.scores = [0.0] * 259 + [-float(rank) for rank in range(len(pieces))] + [0.0, 0.0]
        self.ids = {token: id_ for id_, token in enumerate(self.tokens)}
        self.piece_scores = dict(zip(pieces, self.scores[259:], strict=False))

    def metadata(self, **extra: Any) -> dict[str, Any]:
        keys = {
            "model": "llama",
            "tokens": self.tokens,
            "scores": self.scores,
            "token_type": self.types,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "unknown_token_id": 0,
            **extra,
        }
        return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}

    def encode(self, text: str) -> list[int]:
        """Join the adjacent pair with the best score, leftmost first, until none is left."""
        symbols = list(text.replace(" ", "▁"))
        while True:
            pairs = [
                (-self.piece_scores[joined], i)
                for i in range(len(symbols) - 1)
                if (joined := symbols[i] + symbols[i + 1]) in self.piece_scores
            ]
            if not pairs:
                break
            _, i = min(pairs)
            symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
        return [id_ for symbol in symbols for id_ in self._ids_of(symbol)]

    def _ids_of(self, symbol: str) -> list[int]:
        if symbol in self.piece_scores:
            return [self.ids[symbol]]
        return [self.ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]


def _train_pieces() -> list[str]:
    """Joined pieces as they were made, then characters, as SentencePiece numbers them."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=400, limit_alphabet=120, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    vocab: Mapping[str, int] = backend.get_vocab()
    pieces = sorted(vocab, key=vocab.__getitem__)
    runs = ["▁▁", "▁▁▁▁", "▁▁▁"]
    joined = [*[p for p in pieces if len(p) > 1], *runs]
    return [*dict.fromkeys(joined), *[p for p in pieces if len(p) == 1]]


@pytest.fixture(scope="session")
def sentencepiece() -> SentencePiece:
    return SentencePiece()


@pytest.fixture(scope="session")
def llama(sentencepiece: SentencePiece) -> tokenizers.Tokenizer:
    """The same vocabulary laid out as Llama-2's and Mistral's tokenizer.json."""
    from transformers.tokenization_utils_base import generate_merges

    merges = generate_merges(sentencepiece.piece_scores, sentencepiece.piece_scores)
    backend = tokenizers.Tokenizer(
        models.BPE(sentencepiece.ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    backend.add_special_tokens(
        [
            tokenizers.AddedToken(token, normalized=False, special=True)
            for token in ("<unk>", "<s>", "</s>", "<|im_end|>")
        ]
    )
    backend.add_tokens([tokenizers.AddedToken("<tool_call>", normalized=False)])
    return backend
