"""How the models behind each `tokenizer.ggml.pre` cut text, as their tokenizer.json files say it.

Written out in full and apart from the engine's own patterns, which they check.
"""

from typing import Any

Step = dict[str, Any]


def split(pattern: str, behavior: str = "Isolated", invert: bool = False) -> Step:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": behavior,
        "invert": invert,
    }


def byte_level(use_regex: bool = False) -> Step:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


DIGITS = {"type": "Digits", "individual_digits": True}
NFC = {"type": "NFC"}
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MINICPM5 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
SEED = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"  # noqa: RUF001
KANA = "[一-龥぀-ゟ゠-ヿ]+"  # noqa: RUF001
CJK = "[一-龥ࠀ-一가-퟿]+"

# name: (normalizer, pre-tokenizer's steps)
PUBLISHED: dict[str, tuple[Step | None, list[Step]]] = {
    "gpt-2": (None, [byte_level(True)]),
    "olmo": (NFC, [byte_level(True)]),
    "llama-bpe": (None, [split(LLAMA3), byte_level()]),
    "dbrx": (None, [split(LLAMA3, "Removed", True), byte_level()]),
    "glm4": (None, [split(LLAMA3), byte_level()]),
    "qwen2": (NFC, [split(QWEN2), byte_level()]),
    "qwen35": (NFC, [split(QWEN35), byte_level()]),
    "gpt-4o": (None, [split(GPT4O, "Removed", True), byte_level()]),
    "tekken": (None, [split(TEKKEN), byte_level()]),
    "smollm": (None, [DIGITS, byte_level(True)]),
    "command-r": (NFC, [DIGITS, byte_level(True)]),
    "falcon": (
        None,
        [
            {"type": "Punctuation", "behavior": "Contiguous"},
            byte_level(True),
            {"type": "Digits", "individual_digits": False},
            split("[0-9][0-9][0-9]"),
        ],
    ),
    "minicpm5": (None, [split(r"\p{N}{1,3}"), split(MINICPM5), byte_level()]),
    "superbpe": (None, [split(r"\p{N}+"), split(r"(?=(\d{3})+(?!\d))"), byte_level()]),
    "bloom": (None, [split(BLOOM), byte_level()]),
    "viking": (None, [split(BLOOM), DIGITS, byte_level()]),
    "bailingmoe": (None, [split(BAILING), byte_level()]),
    "seed-coder": (None, [split(SEED), byte_level()]),
    "deepseek-coder": (
        None,
        [
            *[split(p) for p in ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK)],
            DIGITS,
            byte_level(),
        ],
    ),
    "deepseek-v3": (
        None,
        [split(r"\p{N}{1,3}"), split(KANA), split(DEEPSEEK3), byte_level()],
    ),
}

# Names that share another's split; beginning-of-sequence and merge rules may differ.
SAME = {
    "gpt-2": ["phi-2", "jais", "trillion", "exaone4", "jina-v2-code"],
    "olmo": ["mpt"],
    "llama-bpe": ["llama3", "llama-v3", "falcon3", "pixtral", "lfm2"],
    "dbrx": ["smaug-bpe"],
    "glm4": ["chatglm-bpe"],
    "qwen2": ["deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"],
    "gpt-4o": ["llama4"],
    "smollm": ["starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"],
    "bloom": ["poro-chat", "gpt3-finnish"],
    "deepseek-v3": ["hunyuan-dense"],
}
