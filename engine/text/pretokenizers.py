"""How byte-level BPE cuts text into words: the profiles that `tokenizer.ggml.pre` names.

They follow the tokenizer.json of the models that the names stand for. Knows no vocabulary.
"""

import logging

import msgspec
from tokenizers import Regex, normalizers, pre_tokenizers

logger = logging.getLogger(__name__)

_LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK_V3_WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Text is split at each of `patterns` in turn, then, if `splits_words`, at GPT-2's pattern."""

    patterns: tuple[str, ...] = ()
    splits_words: bool = False
    is_nfc: bool = False
    ignores_merges: bool = False  # a word that is a token is taken whole
    adds_bos: bool = False  # where the file does not say

    def normalizer(self) -> normalizers.Normalizer | None:
        """What happens to the text first."""
        return normalizers.NFC() if self.is_nfc else None

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """The cuts, and the change into GPT-2's byte alphabet."""
        splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in self.patterns]
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.splits_words)
        return pre_tokenizers.Sequence([*splits, byte_level])


_GPT2 = Profile(splits_words=True)
_LLAMA3 = Profile(patterns=(_LETTERS % "{1,3}",), ignores_merges=True, adds_bos=True)
_QWEN2 = Profile(patterns=(_LETTERS % "",), is_nfc=True)
_DIGITS = Profile(patterns=(r"\p{N}",), splits_words=True)
_PROFILES = {
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "falcon3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "codeshell": _DIGITS,
    "tekken": Profile(patterns=(_TEKKEN,), ignores_merges=True, adds_bos=True),
    "deepseek-coder": Profile(
        patterns=(
            r"[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
            r"\p{N}",
        )
    ),
    "deepseek-v3": Profile(
        patterns=(r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK_V3_WORDS)
    ),
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
