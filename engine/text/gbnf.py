"""llama.cpp's grammars (GBNF) as Lark. Knows no vocabulary.

llguidance's converter reads them in Python, in time that grows with the square of their rules: what
comes from outside is to be converted where it can be stopped.
"""

import json
import re
from typing import Any

from llguidance.gbnf_to_lark import gbnf_to_lark

from engine.errors import InvalidInput

MAX_LARK = 2_000_000  # characters that become of one
_PIECE = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\r\n]*|\.', re.DOTALL)
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|.)", re.DOTALL)
_ANY = "[\\x00-\U0010ffff]"


def with_lark(grammar: str) -> str:
    """A grammar for llguidance, what is GBNF in it converted. Raises InvalidInput."""
    if '"gbnf"' not in grammar:
        return grammar
    try:
        document: Any = json.loads(grammar)
        parts = document["grammars"]
        if not any("gbnf" in part for part in parts):
            return grammar
        for part in parts:
            if "gbnf" in part:
                part["lark_grammar"] = lark_of(part.pop("gbnf"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput(f"The grammar cannot be read: {error}") from error
    return json.dumps(document, ensure_ascii=False)


def lark_of(gbnf: str) -> str:
    """A grammar with the rule `root` as one with `start`. Raises InvalidInput."""
    try:
        lark = gbnf_to_lark(_PIECE.sub(_piece, gbnf))
    # The converter raises bare ones.
    except Exception as error:
        raise InvalidInput(f"The grammar cannot be read: {error}") from error
    if len(lark) > MAX_LARK:
        raise InvalidInput("The grammar becomes too large.")
    return lark


def _piece(match: re.Match[str]) -> str:
    """A literal or class with its code points spelled out, which the converter gets wrong."""
    piece = match[0]
    if piece == ".":  # a line feed too
        return _ANY
    return piece if piece.startswith("#") else _ESCAPE.sub(_escape, piece)


def _escape(match: re.Match[str]) -> str:
    digits = match[1] or match[2] or match[3]
    if digits is None:
        return match[0]
    code = int(digits, 16)
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise InvalidInput(f"{match[0]} is no character.")
    return f"\\x{code:02x}" if code < 0x80 else chr(code)
