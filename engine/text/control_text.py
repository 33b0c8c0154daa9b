"""Keeps a message's text from becoming control tokens. Knows no template and no ids.

A prompt is rendered to text and then encoded, so a user who writes `<|im_end|>` could end their own
turn and go on as another role. Such texts get a mark before the template sees them, and the prompt
is cut at the marks: encoded in parts, no part has the whole token.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

# A noncharacter of Unicode: no text that is meant to be read has it.
_MARK = "\ufdd0"
# Another one: behind the last message's text, where an answer is to go on from there.
TEXT_END = "\ufdd1"
_REPLACEMENT = "\ufffd"
_OURS = {ord(_MARK): _REPLACEMENT, ord(TEXT_END): _REPLACEMENT}
_LOOKED_AT = 64  # characters of a token; texts that begin like a longer one are cut too

_Trie = dict[str, "_Trie"]


class ControlText:
    """Finds the texts of a model's control tokens; one of a single character cannot be cut."""

    def __init__(self, tokens: Iterable[str]) -> None:
        trie: _Trie = {}
        for token in tokens:
            if len(token) > 1:
                _insert(trie, token[:_LOOKED_AT])
        # A lookahead, for texts may overlap.
        self._start = re.compile(f"(?={_expression(trie)}).", re.DOTALL) if trie else None

    def guard(self, value: Any) -> Any:
        """`value`, plain JSON such as a message, with a mark in each text of a control token."""
        if isinstance(value, str):
            return self._guard_text(value)
        if isinstance(value, Mapping):
            return {key: self.guard(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.guard(item) for item in value]
        return value

    def _guard_text(self, text: str) -> str:
        text = text.translate(_OURS)
        return text if self._start is None else self._start.sub(rf"\g<0>{_MARK}", text)


def cut(prompt: str) -> list[str]:
    """The parts of what was rendered from guarded messages, to be encoded one by one."""
    return prompt.split(_MARK)


def _insert(trie: _Trie, text: str) -> None:
    for char in text:
        trie = trie.setdefault(char, {})
    trie[""] = {}


def _expression(trie: _Trie) -> str:
    """Matches what begins with a text of the trie, in time that does not grow with their number."""
    if "" in trie:
        return ""
    branches = [re.escape(char) + _expression(rest) for char, rest in sorted(trie.items())]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
