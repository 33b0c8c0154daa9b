"""Builds a Tokenizer from the metadata of a GGUF file. Takes a plain mapping and knows no files.

Keys and token types: ggml's docs/gguf.md.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import LoadError
from engine.text.ggml_layout import with_token_names
from engine.text.pretokenizers import find_profile
from engine.text.sentencepiece import SpaceRule
from engine.text.token_type import TokenType
from engine.text.tokenizer import Tokenizer
from engine.text.vocabulary import (
    Vocabulary,
    byte_level_tokenizer,
    merged_tokenizer,
    sentencepiece_tokenizer,
    unigram_tokenizer,
)

_PREFIX = "tokenizer.ggml."
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",  # as the format spells it
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}
_SENTENCEPIECE_IDS = {"bos_token": 1, "eos_token": 2, "unk_token": 0}
_UNIGRAM_IDS = {"eos_token": 1, "unk_token": 2, "pad_token": 0}
_GEMMA_IDS = {"pad_token": 0, "eos_token": 1, "bos_token": 2, "unk_token": 3}
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# Tokens of Phi-3 behind which white space counts; it does not behind its other added ones.
_PHI3_KEEPS = frozenset({"<unk>", "<s>", "<|endoftext|>"})


def build_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF file.

    Kinds: `llama` (SentencePiece's BPE), `gpt2` (byte-level BPE), `gemma4` (SentencePiece's pieces
    with a list of merges) and `t5` (Unigram). `add_sep_token` concerns pairs of texts only, and
    there are none. Raises LoadError if the tokenizer is missing, damaged, or of another kind.
    """
    kind = metadata.get(_PREFIX + "model")
    build = _BUILDERS.get(str(kind))
    if build is None:
        raise LoadError(
            f"the GGUF file has a tokenizer of kind {kind!r}, not {', '.join(_BUILDERS)}; use a "
            "file of a supported model, or name a tokenizer of its own."
        )
    try:
        return build(_Metadata(metadata))
    except LoadError:
        raise
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise LoadError(
            f"the GGUF file's tokenizer is damaged ({error}); download or convert the file again."
        ) from error


class _Metadata:
    """Reads the tokenizer's keys."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.is_phi3 = values.get("general.architecture") == "phi3"

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(_PREFIX + key, default)

    def ends(self, adds_bos: bool, adds_eos: bool = False) -> tuple[bool, bool]:
        """Whether BOS and EOS are added, and what holds for a file that does not say."""
        return bool(self.get("add_bos_token", adds_bos)), bool(self.get("add_eos_token", adds_eos))

    def array(self, key: str) -> Sequence[Any]:
        values = self.get(key)
        if values is None:
            raise LoadError(f"the GGUF file has no {_PREFIX}{key}; convert it again.")
        return list(values)

    def merges(self) -> list[tuple[str, str]]:
        return [_split_merge(str(merge)) for merge in self.array("merges")]

    def vocab(self, default_ids: Mapping[str, int], has_scores: bool = False) -> Vocabulary:
        tokens = [str(token) for token in self.array("tokens")]
        types = self.get("token_type")
        if types is None and has_scores:
            tokens = with_token_names(tokens)
        named = {name: self.get(key, default_ids.get(name)) for name, key in _NAMED.items()}
        ends = (self.get(key) for key in _END_KEYS)
        named_ids = {name: int(id_) for name, id_ in named.items() if _is_id(id_, tokens)}
        end_ids = {int(id_) for id_ in ends if _is_id(id_, tokens)}
        return Vocabulary(
            tokens=tokens,
            types=[int(t) for t in types] if types is not None else _guess_types(tokens, named_ids),
            named_ids=named_ids,
            end_ids=frozenset(end_ids),
            scores=[float(score) for score in self.array("scores")] if has_scores else [],
            strips_right=frozenset(tokens) - _PHI3_KEEPS if self.is_phi3 else frozenset(),
        )


def _is_id(value: Any, tokens: Sequence[str]) -> bool:
    return value is not None and 0 <= int(value) < len(tokens)


def _guess_types(tokens: Sequence[str], named_ids: Mapping[str, int]) -> list[int]:
    types = [
        int(TokenType.BYTE if _BYTE_TOKEN.fullmatch(token) else TokenType.NORMAL)
        for token in tokens
    ]
    for id_ in named_ids.values():
        types[id_] = int(TokenType.CONTROL)
    return types


def _split_merge(merge: str) -> tuple[str, str]:
    cut = merge.index(" ", 1)
    return merge[:cut], merge[cut + 1 :]


def _sentencepiece(metadata: _Metadata) -> Tokenizer:
    """As llama.cpp has it: `remove_extra_whitespaces` is for Unigram, whatever the file says."""
    vocab = metadata.vocab(_SENTENCEPIECE_IDS, has_scores=True)
    return sentencepiece_tokenizer(vocab, _spaces(metadata, True), *metadata.ends(adds_bos=True))


def _gemma4(metadata: _Metadata) -> Tokenizer:
    vocab = metadata.vocab(_GEMMA_IDS)
    spaces = _spaces(metadata, False)
    return merged_tokenizer(vocab, metadata.merges(), spaces, *metadata.ends(adds_bos=True))


def _unigram(metadata: _Metadata) -> Tokenizer:
    vocab = metadata.vocab(_UNIGRAM_IDS, has_scores=True)
    spaces = SpaceRule(
        prefix=_spaces(metadata, True).prefix,
        joins_runs=bool(metadata.get("remove_extra_whitespaces", False)),
        charsmap=bytes(metadata.get("precompiled_charsmap", b"")),
    )
    return unigram_tokenizer(vocab, spaces, *metadata.ends(adds_bos=False, adds_eos=True))


def _spaces(metadata: _Metadata, has_prefix: bool) -> SpaceRule:
    return SpaceRule(prefix="each" if metadata.get("add_space_prefix", has_prefix) else "none")


def _byte_level(metadata: _Metadata) -> Tokenizer:
    profile = find_profile(metadata.get("pre"))
    vocab, merges = metadata.vocab({}), metadata.merges()
    return byte_level_tokenizer(vocab, merges, profile, *metadata.ends(profile.adds_bos))


_BUILDERS = {"llama": _sentencepiece, "gpt2": _byte_level, "gemma4": _gemma4, "t5": _unigram}
