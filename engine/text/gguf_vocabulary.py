"""What a GGUF file says of a byte-level BPE tokenizer, from tokenizer.json. The way back is in
gguf_tokenizer.py, which also judges whether the file would cut text as tokenizer.json does.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import LoadError
from engine.json_file import read_json
from engine.text.gguf_tokenizer import build_tokenizer
from engine.text.hf_tokenizer import load_tokenizer
from engine.text.pretokenizers import Profile, find_profile
from engine.text.special_tokens import read_settings, special_texts
from engine.text.template_files import TemplateChoice, find_template
from engine.text.token_type import TokenType
from engine.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

# As llama.cpp calls them.
_PROFILES = (
    *("gpt-2", "llama-bpe", "dbrx", "qwen2", "qwen35", "gpt-4o", "tekken", "smollm", "command-r"),
    *("olmo", "deepseek-llm", "deepseek-coder", "deepseek-v3", "bloom", "viking", "bailingmoe"),
    *("seed-coder", "minicpm5", "superbpe"),
)
_CUTS = (("Isolated", False), ("Removed", True))
_DIGITS = r"\p{N}"
# What the written tokenizer must make the same tokens of, besides having the same rules.
_TEXTS = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 🦙🦙 😶‍🌫️ ✅ ----==== ",
    "3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 1314151天 2024-11-28 $1,000.50 99%",
    "```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure",
    "I'll make it, 'D you like some tea? We'Ve a'lL. THEY'LL pay -- won't they? o'clock",
    "def f(x):\n    return x**2  # square\n\tif x != y:\r\n\r\n        pass\n",
    "Ça va très bien, nai\u0308ve fac\u0327ade e\u0301 ½ ² Ⅷ ﬁ Straße កាន់តែពិសេសអាច",
    "你好世界。今天天气很好。こんにちは世界、元気ですか。我想在apple工作",
    "안녕하세요 세계 여러분 Привет, мир! нещо на Български Καλημέρα",
    "CamelCaseWords HTTPServer iPhone foo_bar/baz-qux a/b/c https://x.org/?q=1&r=2",
    *(" leading", "trailing ", "   three", "a  b   c    d", "\n\n\nnew\n\nlines\n"),
    "\u3000wide\u00a0hard 😀😀 👩‍👩‍👧 🇩🇪 ❤️ \u200d \ufffd ∑∫√",
)


class _Token(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _Model(msgspec.Struct):
    type: str = ""
    vocab: dict[str, int] | list[Any] = {}
    merges: list[str | tuple[str, str]] = []
    ignore_merges: bool = False


class _Step(msgspec.Struct):
    """A normalizer or a pre-tokenizer, with the fields of those kinds that a profile can have."""

    type: str
    pretokenizers: list["_Step"] = []
    normalizers: list["_Step"] = []
    pattern: dict[str, str] = {}
    behavior: str = "Isolated"
    invert: bool = False
    individual_digits: bool = False
    use_regex: bool = True
    add_prefix_space: bool = False


class _Document(msgspec.Struct):
    model: _Model
    normalizer: _Step | None = None
    pre_tokenizer: _Step | None = None
    added_tokens: list[_Token] = []


def gguf_vocabulary(directory: Path, size: int, eos_ids: Sequence[int]) -> dict[str, Any]:
    """The metadata keys of a model's tokenizer and chat template, whole names to values.

    `size` is the number of rows of the model's embeddings; `eos_ids` end a text. Raises LoadError
    for a tokenizer of another kind, and for one that would not make the same tokens from the file.
    """
    path = directory / "tokenizer.json"
    document = _read(path)
    original = load_tokenizer(directory)
    metadata = {
        **_tokens(document, size, special_texts(read_settings(directory)), path),
        **_ids(original, eos_ids),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.merges": [_merge(pair) for pair in document.model.merges],
        "tokenizer.ggml.add_bos_token": _adds(original, original.encode(""), "bos_token"),
        "tokenizer.ggml.add_eos_token": _adds(original, original.encode(""), "eos_token"),
    }
    metadata["tokenizer.ggml.pre"] = _find_profile(original, metadata, document, path)
    return metadata | _template(directory)


def _read(path: Path) -> _Document:
    if not path.is_file():
        raise LoadError(
            f"{path.parent} has no tokenizer.json, which a GGUF file is made from; make one with "
            "transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)."
        )
    document = read_json(path, _Document)
    model = document.model
    if model.type not in ("BPE", "") or not model.merges or "<0x00>" in model.vocab:
        raise LoadError(
            f"{path} is no byte-level BPE tokenizer, which is the only kind that can be written; "
            "convert the model with llama.cpp's convert_hf_to_gguf.py and quantise that file."
        )
    return document


def _merge(pair: str | tuple[str, str]) -> str:
    return pair if isinstance(pair, str) else " ".join(pair)


def _tokens(document: _Document, size: int, special: Collection[str], path: Path) -> dict[str, Any]:
    """Token texts and types by id. Rows of the embeddings that no token has are unused."""
    assert isinstance(document.model.vocab, dict)
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [TokenType.UNUSED] * size
    plain = [_Token(index, text) for text, index in document.model.vocab.items()]
    ordinary = [TokenType.NORMAL] * len(plain) + [TokenType.USER_DEFINED] * len(
        document.added_tokens
    )
    for token, kind in zip([*plain, *document.added_tokens], ordinary, strict=True):
        if not 0 <= token.id < size:
            raise LoadError(
                f"{path} has a token {token.content!r} with the id {token.id}, and the model has "
                f"{size} rows; they do not belong together."
            )
        is_special = token.special or token.content in special
        tokens[token.id] = token.content
        types[token.id] = TokenType.CONTROL if is_special else kind
    return {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in types],
    }


def _ids(tokenizer: Tokenizer, eos_ids: Sequence[int]) -> dict[str, int]:
    """Named ids. There are three keys for tokens that end a text; the tokenizer's own is first."""
    named = {
        "bos_token_id": _named(tokenizer, "bos_token"),
        "padding_token_id": _named(tokenizer, "pad_token"),
        "unknown_token_id": _named(tokenizer, "unk_token"),
    }
    own = _named(tokenizer, "eos_token")
    known = set(eos_ids) if eos_ids or own is None else {own}
    ends = sorted(known, key=lambda index: (index != own, index))
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    if len(ends) > len(keys):
        logger.warning("a GGUF file has room for 3 end tokens: %s are left out", ends[len(keys) :])
    named.update(zip(keys, ends, strict=False))
    return {f"tokenizer.ggml.{key}": index for key, index in named.items() if index is not None}


def _named(tokenizer: Tokenizer, name: str) -> int | None:
    text = tokenizer.special_tokens.get(name)
    return None if text is None else tokenizer.token_to_id(text)


def _adds(tokenizer: Tokenizer, empty: Sequence[int], name: str) -> bool:
    """Whether the tokenizer puts this token around a text: around an empty one it stands alone."""
    return _named(tokenizer, name) in empty


def _find_profile(
    original: Tokenizer, metadata: Mapping[str, Any], document: _Document, path: Path
) -> str:
    texts = [*_TEXTS, *(f"a {t.content} b{t.content}c" for t in document.added_tokens)]
    rules = _rules(document)
    for name in _PROFILES:
        if rules != msgspec.structs.replace(find_profile(name), adds_bos=False):
            continue
        written = build_tokenizer({**metadata, "tokenizer.ggml.pre": name})
        if all(written.encode(text) == original.encode(text) for text in texts):
            return name
    raise LoadError(
        f"{path} cuts text in a way that no GGUF tokenizer profile known here does; convert the "
        "model with llama.cpp's convert_hf_to_gguf.py and quantise that file."
    )


def _rules(document: _Document) -> Profile | None:
    """The profile that tokenizer.json spells out, None if it does what no profile can."""
    steps = _flat(document.pre_tokenizer)
    cuts = [_pattern(step) for step in steps[:-1]]
    last = steps[-1] if steps else None
    if None in cuts or last is None or last.type != "ByteLevel" or last.add_prefix_space:
        return None
    normalizers = [step.type for step in _flat(document.normalizer)]
    if normalizers not in ([], ["NFC"]):
        return None
    return Profile(
        patterns=tuple(cut for cut in cuts if cut is not None),
        splits_words=last.use_regex,
        is_nfc=bool(normalizers),
        ignores_merges=document.model.ignore_merges,
    )


def _flat(step: _Step | None) -> list[_Step]:
    if step is None:
        return []
    if step.type != "Sequence":
        return [step]
    return [part for inner in step.pretokenizers + step.normalizers for part in _flat(inner)]


def _pattern(step: _Step) -> str | None:
    if step.type == "Digits" and step.individual_digits:
        return _DIGITS
    # "Keep only what matches" is the same for these patterns, which between them match everything.
    if step.type == "Split" and (step.behavior, step.invert) in _CUTS:
        pattern = step.pattern.get("Regex")
        return pattern and pattern.replace("\r", r"\r").replace("\n", r"\n")
    return None


def _template(directory: Path) -> dict[str, Any]:
    source = find_template(TemplateChoice(), [directory], {}, {})
    if source is None:
        return {}
    keys: dict[str, Any] = {"tokenizer.chat_template": source.plain}
    if source.tools is not None:
        keys["tokenizer.chat_template.tool_use"] = source.tools
        keys["tokenizer.chat_templates"] = ["tool_use"]
    return keys
