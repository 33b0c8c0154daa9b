"""Builds a Tokenizer of a directory without tokenizer.json: tokenizer.model, vocab.json and so on.

Those are what Hugging Face's older ("slow") tokenizers read. Knows no GGUF and no chat template.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import AddedToken

from engine.errors import LoadError
from engine.json_file import read_json, read_json_if_there
from engine.text.pretokenizers import Profile, find_profile
from engine.text.sentencepiece import SpaceRule
from engine.text.sentencepiece_model import (
    Algorithm,
    SentencePieceModel,
    read_sentencepiece_model,
)
from engine.text.special_tokens import added_tokens, named_tokens, read_settings
from engine.text.tekken import load_tekken
from engine.text.token_type import TokenType
from engine.text.tokenizer import Tokenizer
from engine.text.vocabulary import (
    Vocabulary,
    byte_level_tokenizer,
    merged_tokenizer,
    sentencepiece_tokenizer,
    unigram_tokenizer,
)
from engine.text.wordpiece import load_wordpiece

# How `vocab.json` and `merges.txt` of a model type, or else of a tokenizer class, cut text.
_PROFILES = {
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "Qwen2Tokenizer"), "qwen2"),
    **dict.fromkeys(("starcoder2", "gpt_bigcode"), "starcoder"),
    **dict.fromkeys(("gpt_neox", "olmo", "GPTNeoXTokenizer"), "olmo"),
    **dict.fromkeys(("gpt2", "phi", "GPT2Tokenizer", "CodeGenTokenizer"), "gpt-2"),
}


_Build = Callable[[Path, Mapping[str, Any], Mapping[int, AddedToken]], Tokenizer]


class _ModelType(msgspec.Struct):
    model_type: str = ""


def load_slow_tokenizer(directory: Path) -> Tokenizer:
    """Read tekken.json, tokenizer.model, vocab.json and merges.txt, or vocab.txt.

    Raises LoadError if there is neither, or it is damaged.
    """
    build = _builder(directory)
    settings = read_settings(directory)
    added = added_tokens(directory, settings)
    try:
        return build(directory, settings, added)
    except LoadError:
        raise
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise LoadError(
            f"the tokenizer in {directory} is damaged ({error}); download it again."
        ) from error


def _builder(directory: Path) -> _Build:
    if (directory / "tekken.json").is_file():
        return lambda directory, settings, added: load_tekken(directory / "tekken.json")
    if (directory / "tokenizer.model").is_file():
        return _from_model
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        return _from_merges
    if (directory / "vocab.txt").is_file():
        return load_wordpiece
    raise LoadError(
        f"{directory / 'tokenizer.json'} does not exist; put the tokenizer.json of the model "
        "there, or its tokenizer.model, vocab.json and merges.txt, vocab.txt or tekken.json."
    )


def _from_model(
    directory: Path, settings: Mapping[str, Any], added: Mapping[int, AddedToken]
) -> Tokenizer:
    path = directory / "tokenizer.model"
    model = read_sentencepiece_model(path)
    if model.algorithm not in (Algorithm.BPE, Algorithm.UNIGRAM) or model.space_is_suffix:
        kind = "space-as-suffix" if model.space_is_suffix else model.algorithm.name
        raise LoadError(
            f"{path} is a {kind} model, not BPE or UNIGRAM; put a tokenizer.json there."
        )
    vocab = _extended(
        Vocabulary(
            tokens=[piece.text for piece in model.pieces],
            types=[piece.type for piece in model.pieces],
            scores=[piece.score for piece in model.pieces],
            named_ids=model.named_ids,
        ),
        settings,
        added,
    )
    build = sentencepiece_tokenizer if model.algorithm is Algorithm.BPE else unigram_tokenizer
    return build(vocab, _spaces(model, settings), *_ends(settings, adds_bos=True))


def _spaces(model: SentencePieceModel, settings: Mapping[str, Any]) -> SpaceRule:
    """`legacy: false` is how Hugging Face marks the tokenizers that put one space, at the start."""
    prefix: Any = "first" if settings.get("legacy") is False else "each"
    if not model.adds_first_space or settings.get("add_prefix_space") is False:
        prefix = "none"
    return SpaceRule(prefix=prefix, joins_runs=model.joins_spaces, charsmap=model.charsmap)


def _from_merges(
    directory: Path, settings: Mapping[str, Any], added: Mapping[int, AddedToken]
) -> Tokenizer:
    ids = read_json(directory / "vocab.json", dict[str, int])
    settings = {"eos_token": "<|endoftext|>", **settings}  # of GPT-2, and so of all such classes
    size = 1 + max(ids.values())
    if size > 2 * (len(ids) + len(added)):
        raise LoadError(
            f"{directory / 'vocab.json'} leaves most ids below {size} unused; download it again."
        )
    tokens = [""] * size
    for token, id_ in ids.items():
        tokens[id_] = token
    types = [int(TokenType.NORMAL)] * len(tokens)
    vocab = _extended(Vocabulary(tokens=tokens, types=types, named_ids={}), settings, added)
    merges = _read_merges(directory / "merges.txt")
    ends = _ends(settings, adds_bos=False)
    if "<0x0A>" in ids:
        return merged_tokenizer(vocab, merges, SpaceRule(prefix="none"), *ends)
    return byte_level_tokenizer(vocab, merges, _profile(directory, settings), *ends)


def _profile(directory: Path, settings: Mapping[str, Any]) -> Profile:
    config = read_json_if_there(directory / "config.json", _ModelType) or _ModelType()
    owner = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
    return find_profile(_PROFILES.get(config.model_type) or _PROFILES.get(owner))


def _read_merges(path: Path) -> list[tuple[str, str]]:
    """One pair a line; the first line may tell a version."""
    lines = path.read_text("utf-8").split("\n")
    if lines[0].startswith("#version"):
        del lines[0]
    pairs = [line.split(" ") for line in lines if line.strip()]
    return [(left, right) for left, right in pairs]


def _ends(settings: Mapping[str, Any], adds_bos: bool) -> tuple[bool, bool]:
    """Whether BOS and EOS are added; null is as good as nothing."""
    bos, eos = settings.get("add_bos_token"), settings.get("add_eos_token")
    return adds_bos if bos is None else bool(bos), bool(eos)


def _extended(
    vocab: Vocabulary, settings: Mapping[str, Any], added: Mapping[int, AddedToken]
) -> Vocabulary:
    """The vocabulary with the added tokens at their ids, and the names that the config gives."""
    size = 1 + max([len(vocab.tokens) - 1, *added])
    if size > len(vocab.tokens) + len(added):
        raise LoadError(f"the added tokens leave ids below {size - 1} unused; download them again.")
    more = size - len(vocab.tokens)
    tokens = [*vocab.tokens, *[""] * more]
    for id_, token in added.items():
        tokens[id_] = token.content
    ids = {token: id_ for id_, token in enumerate(tokens)}
    named = {name: ids[text] for name, text in named_tokens(settings).items() if text in ids}
    return msgspec.structs.replace(
        vocab,
        tokens=tokens,
        types=[*vocab.types, *[int(TokenType.UNUSED)] * more],
        scores=[*vocab.scores, *[0.0] * (more if vocab.scores else 0)],
        named_ids=vocab.named_ids | named,
        added=added,
    )
