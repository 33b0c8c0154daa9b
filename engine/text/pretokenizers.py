"""How byte-level BPE cuts text into words: the profiles that `tokenizer.ggml.pre` names.

They follow the tokenizer.json of the models that the names stand for. Knows no vocabulary.
"""

import logging
from collections.abc import Callable

import msgspec
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

from engine.text import split_patterns as patterns

logger = logging.getLogger(__name__)


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Text is split at each of `patterns` in turn, then, if `splits_words`, at GPT-2's pattern.

    `steps`, where a model's own cannot be said in this way, stand in the place of both.
    """

    patterns: tuple[str, ...] = ()
    splits_words: bool = False
    is_nfc: bool = False
    ignores_merges: bool = False  # a word that is a token is taken whole
    adds_bos: bool = False  # where the file does not say
    steps: Callable[[], list[PreTokenizer]] | None = None

    def normalizer(self) -> normalizers.Normalizer | None:
        """What happens to the text first."""
        return normalizers.NFC() if self.is_nfc else None

    def pre_tokenizer(self) -> PreTokenizer:
        """The cuts, and the change into GPT-2's byte alphabet."""
        if self.steps is not None:
            return pre_tokenizers.Sequence(self.steps())
        splits = [_split(pattern) for pattern in self.patterns]
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.splits_words)
        return pre_tokenizers.Sequence([*splits, byte_level])


def _split(pattern: str) -> PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _falcon() -> list[PreTokenizer]:
    """Falcon looks for digits among the letters that stand for bytes, so after the change."""
    return [
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False),
        _split("[0-9][0-9][0-9]"),
    ]


_GPT2 = Profile(splits_words=True)
_GPT2_NFC = Profile(splits_words=True, is_nfc=True)
_DIGITS = Profile(patterns=(patterns.ANY_DIGIT,), splits_words=True)
_GPT4 = Profile(patterns=(patterns.words("{1,3}"),))
_GPT4O = Profile(patterns=(patterns.cased_words(f"{patterns.CONTRACTIONS}?", "{1,3}"),))
_LLAMA3 = msgspec.structs.replace(_GPT4, ignores_merges=True, adds_bos=True)
_QWEN2 = Profile(patterns=(patterns.words(""),), is_nfc=True)
_BLOOM = Profile(patterns=(patterns.BLOOM_WORDS,))
_BAILING = Profile(patterns=(patterns.BAILING_WORDS,))
_DEEPSEEK3 = Profile(
    patterns=(patterns.UP_TO_THREE_DIGITS, patterns.HAN_AND_KANA, patterns.DEEPSEEK_WORDS)
)
_PROFILES = {
    **dict.fromkeys(("gpt-2", "phi-2", "jais", "trillion", "granite-docling", "exaone4"), _GPT2),
    **dict.fromkeys(("mellum", "modern-bert", "gigachat", "a.x-4.0", "roberta-bpe"), _GPT2),
    **dict.fromkeys(("jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de"), _GPT2),
    **dict.fromkeys(("jina-v2-code",), _GPT2),
    **dict.fromkeys(("mpt", "olmo"), _GPT2_NFC),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1"), _LLAMA3),
    **dict.fromkeys(("pixtral", "midm-2.0", "lfm2", "jina-v5-nano"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), _GPT4),
    **dict.fromkeys(("gpt-4o", "llama4", "minimax-m2", "kanana2", "talkie"), _GPT4O),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "kormo", "stablelm2"), _QWEN2),
    **dict.fromkeys(("hunyuan", "grok-2", "f2llmv2"), _QWEN2),
    "qwen35": Profile(patterns=(patterns.WORDS_WITH_MARKS,), is_nfc=True),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell"), _DIGITS),
    **dict.fromkeys(("exaone", "minerva-7b"), _DIGITS),
    "mellum2": _DIGITS,
    "minicpm5": Profile(
        patterns=(patterns.UP_TO_THREE_DIGITS, patterns.words("+")), ignores_merges=True
    ),
    "superbpe": Profile(patterns=(r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    "command-r": msgspec.structs.replace(_DIGITS, is_nfc=True),
    "falcon": Profile(steps=_falcon),
    **dict.fromkeys(("bloom", "gpt3-finnish", "poro-chat"), _BLOOM),
    "viking": Profile(patterns=(patterns.BLOOM_WORDS, patterns.ANY_DIGIT)),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), _BAILING),
    "seed-coder": Profile(patterns=(patterns.SEED_CODER_WORDS,)),
    "tekken": Profile(patterns=(patterns.cased_words("", ""),), ignores_merges=True, adds_bos=True),
    "deepseek-llm": Profile(
        patterns=(
            patterns.NEWLINE,
            patterns.DEEPSEEK_LETTERS,
            patterns.DEEPSEEK_PUNCTUATION,
            r"\s+$",
            patterns.HAN_AND_HANGUL,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": Profile(
        patterns=(
            patterns.NEWLINE,
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            patterns.HAN_AND_HANGUL,
            patterns.ANY_DIGIT,
        )
    ),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense"), _DEEPSEEK3),
}


def find_profile(name: str | None) -> Profile:
    """The profile of that name; GPT-2's, with a warning, for a missing or an unknown one."""
    profile = _PROFILES.get(name or "")
    if profile is None:
        logger.warning(
            "tokenizer.ggml.pre is %s: text is split as for GPT-2, which may cost answer quality",
            repr(name) if name else "missing",
        )
    return profile or _GPT2
