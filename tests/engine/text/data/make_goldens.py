"""Makes the SentencePiece models beside this file, and what the library itself does with texts.

    pip install sentencepiece==0.2.3; python make_goldens.py

The two Unigram kinds leave out what `tokenizers` does otherwise: it breaks ties between cuts of
long runs of spaces in its own way, and its normalizer goes by grapheme, joiners included.
"""

import json
import random
from typing import Any

import sentencepiece  # type: ignore[import-not-found]

LINES = [
    "The quick brown fox doesn't jump over the lazy dog; it's 2024, they'LL say we've 12345 hens.",
    "def main(argv: list[str]) -> int:     return sum(int(x) for x in argv[1:])  # total",
    "Wie schön! Ça va très bien, naïve façade. Привет, мир! Καλημέρα κόσμε. Straße 99%",
    "你好世界。今天天气很好。こんにちは世界、元気ですか。안녕하세요 세계 여러분",
    "emoji 😀😀 math spaces and lines and the the the then there",
]
PARTS = [
    *["it's", "THEY'LL", " don't", "1234567", "3.14", "½", " ", "  ", "     ", "\n", "\r\n"],
    *["\t", "\u3000", "\u00a0", "if x != y:\n    return [1, 2]", "你好", "世界", "こんにちは"],
    *["안녕", "Привет", "naïve", "nai\u0308ve", "\ufb01", "😀", "👩‍👩‍👧", "\u200d", "\x00"],
    *["\U0010ffff", "the", "The", " the", "quick", "def main", "<h1>", "<start_of_turn>", "\uff21"],
    *["\n\n", "\ufffd"],
]
PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "bpe", "byte_fallback": True, "character_coverage": 0.99, **PLAIN},
    "gemma": {
        "model_type": "bpe",
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "user_defined_symbols": ["<start_of_turn>", "<h1>", "▁▁", "▁▁▁", "▁▁▁▁", "\n\n"],
        **{"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3},
        **PLAIN,
    },
    "unigram": {"model_type": "unigram", "byte_fallback": True, **PLAIN},
    "normalizing": {"model_type": "unigram", "normalization_rule_tsv": "rules.tsv"},
}
# A and fi as NFKC has them, white space as spaces
RULES = "FF21\t41\nFB01\t66 69\nA0\t20\n9\t20\nA\t20\nD\t20\n"


def text(rng: random.Random) -> str:
    if rng.random() < 0.7:
        return "".join(rng.choice(PARTS) for _ in range(rng.randrange(10)))
    ranges = [(0x20, 0x7F), (0x20, 0x3000), (0xE000, 0x10FFFF)]
    return "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(16)))


def train(kind: str, options: dict[str, Any]) -> Any:
    sentencepiece.SentencePieceTrainer.train(
        input="corpus.txt",
        model_prefix=kind,
        vocab_size=600 if options["model_type"] == "bpe" else 400,
        hard_vocab_limit=False,
        allow_whitespace_only_pieces=True,
        num_threads=1,
        minloglevel=2,
        **({"character_coverage": 1.0} | options),
    )
    return sentencepiece.SentencePieceProcessor(model_file=f"{kind}.model")


def main() -> None:
    rng = random.Random(5)
    with open("corpus.txt", "w") as file:
        file.write("\n".join(LINES * 20))
    with open("rules.tsv", "w") as file:
        file.write(RULES)
    texts = [text(rng) for _ in range(200)]
    for kind, options in KINDS.items():
        model = train(kind, options)
        is_bpe = options["model_type"] == "bpe"
        used = [t for t in texts if is_bpe or ("    " not in t and "\u200d" not in t)]
        rows = [[t, model.encode(t), model.decode(model.encode(t))] for t in used]
        with open(f"{kind}.json", "w") as file:
            json.dump(rows, file, ensure_ascii=True, separators=(",", ":"))


if __name__ == "__main__":
    main()
