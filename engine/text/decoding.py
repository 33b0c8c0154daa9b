"""What one token stands for, as its tokenizer's decoder says. Knows no ids and no neighbours."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from engine.errors import LoadError

# A piece is text (whole characters) or bytes (which may hold a part of a character).
Piece = str | bytes

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ORDER = ("Replace", "ByteFallback", "Fuse", "Strip")


def _bytes_of_chars() -> dict[str, int]:
    """GPT-2's byte alphabet: printable bytes stand for themselves, the others for U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTES_OF_CHARS = _bytes_of_chars()
_CHARS_OF_BYTES = {byte: char for char, byte in _BYTES_OF_CHARS.items()}


class DecodeRule(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder of the `tokenizers` library, as far as it can be applied token by token.

    `max_lead` characters `lead` are dropped from the very start of the text, and all `unspaced`
    ones from its first token. With a `continuation`, that of WordPiece, tokens without it in front
    begin a word, and `replacements` are made behind the space that parts it from the last.
    """

    is_byte_level: bool = False
    has_byte_fallback: bool = False
    replacements: tuple[tuple[str, str], ...] = ()
    lead: str = " "
    max_lead: int = 0
    unspaced: str = ""
    continuation: str = ""

    @property
    def treats_first(self) -> bool:
        """Whether `first_piece` is another than `piece`."""
        return bool(self.unspaced or self.continuation)

    def piece(self, token: str) -> Piece:
        """What `token` adds to the text."""
        if self.is_byte_level:
            return _byte_level(token)
        if self.has_byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes((int(match[1], 16),))
        if self.continuation:
            is_inside = token.startswith(self.continuation)
            token = token.removeprefix(self.continuation) if is_inside else f" {token}"
        return self._replaced(token)

    def _replaced(self, token: str) -> str:
        for old, new in self.replacements:
            token = token.replace(old, new)
        return token

    def first_piece(self, token: str) -> Piece:
        """What `token` adds as the first one of a text."""
        if self.continuation:
            return self._replaced(token)
        return self.piece(token.replace(self.unspaced, "") if self.unspaced else token)


BYTE_LEVEL = DecodeRule(is_byte_level=True)


def sentencepiece_rule(drops_first_space: bool) -> DecodeRule:
    """The rule of SentencePiece's BPE vocabularies."""
    return DecodeRule(
        has_byte_fallback=True, replacements=(("▁", " "),), max_lead=int(drops_first_space)
    )


def byte_level_text(piece: bytes) -> str:
    """How a byte-level vocabulary writes these bytes."""
    return "".join(_CHARS_OF_BYTES[byte] for byte in piece)


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_BYTES_OF_CHARS[char] for char in token])
    except KeyError:  # an added token, which is written as it reads
        return token.encode()


def parse_decoder(spec: Mapping[str, Any] | None) -> DecodeRule:
    """Read a tokenizer.json's `decoder`. Raises LoadError if it cannot run token by token."""
    steps = _steps(spec)
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return BYTE_LEVEL
    if kinds == ["Metaspace"]:
        return _metaspace(steps[0])
    if kinds == ["WordPiece"]:
        return _word_piece(steps[0])
    if not _is_supported(kinds):
        raise LoadError(
            f"tokenizer.json has the decoder {' + '.join(kinds) or 'null'}, not a supported one; "
            "use a model with a byte-level, a SentencePiece or a WordPiece tokenizer."
        )
    replacements = [_replacement(step) for step in steps if step["type"] == "Replace"]
    strips = [_strip(step) for step in steps if step["type"] == "Strip"]
    lead, max_lead = strips[0] if strips else (" ", 0)
    return DecodeRule(
        has_byte_fallback="ByteFallback" in kinds,
        replacements=tuple(replacements),
        lead=lead,
        max_lead=max_lead,
    )


def _metaspace(step: Mapping[str, Any]) -> DecodeRule:
    """`prepend_scheme` says whether a text's first space was in the original."""
    space = step["replacement"]
    has_prefix = step.get("prepend_scheme", "always") != "never"
    return DecodeRule(replacements=((space, " "),), unspaced=space if has_prefix else "")


# What `cleanup` makes of the texts of single tokens, in the library's order.
_CLEANED = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")),
    *((" 'm", "'m"), (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)


def _word_piece(step: Mapping[str, Any]) -> DecodeRule:
    """BERT's."""
    cleaned = _CLEANED if step.get("cleanup", True) else ()
    return DecodeRule(replacements=cleaned, continuation=step["prefix"])


def _steps(spec: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if spec is None:
        return []
    return list(spec["decoders"]) if spec["type"] == "Sequence" else [spec]


def _is_supported(kinds: list[str]) -> bool:
    """Steps in the one order in which they commute with taking the tokens one by one."""
    if not kinds or any(kind not in _ORDER for kind in kinds):
        return False
    ranks = [_ORDER.index(kind) for kind in kinds]
    if kinds.count("Strip") > 1 or ("Strip" in kinds and "Fuse" not in kinds):
        return False
    return ranks == sorted(ranks)


def _replacement(step: Mapping[str, Any]) -> tuple[str, str]:
    if "String" not in step["pattern"]:
        raise LoadError(
            "tokenizer.json has a decoder that replaces by regex, which is not supported."
        )
    return step["pattern"]["String"], step["content"]


def _strip(step: Mapping[str, Any]) -> tuple[str, int]:
    if step["stop"]:
        raise LoadError("tokenizer.json has a decoder that strips the end, which is not supported.")
    return step["content"], step["start"]
