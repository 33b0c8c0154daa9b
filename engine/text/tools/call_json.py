"""Reads `{"name": …, "arguments": …}` as its text arrives, arguments first come first shown."""

import json
from collections.abc import Callable, Generator

from engine.text.tools.source import Source, Waiting

_NAMES = ("name", "function", "tool_name")
_ARGUMENTS = ("arguments", "parameters")
_OTHERS = ("id", "type", "index")


class NotACall(Exception):
    """The text is no call."""


def call_object(
    source: Source, begin: Callable[[str], bool], show: Callable[[str], None]
) -> Waiting:
    """Read one object. `begin` gets the name once it is known, `show` the arguments' text behind.

    `begin` may say that there is no such tool. Raises NotACall, then or at the first character that
    is no JSON of this form, and EndOfText.
    """
    yield from _expect(source, "{")
    name: str | None = None
    held: str | None = None  # arguments that came before the name
    while not (yield from _has_ended(source, "}")):
        key = yield from _string(source)
        yield from _expect(source, ":")
        if key in _NAMES and name is None:
            name = yield from _string(source)
            if not name or not begin(name):
                raise NotACall
        elif key in _ARGUMENTS and name is not None and held is None:
            held = ""
            yield from arguments(source, show)
        elif key in _ARGUMENTS or key in _OTHERS:
            parts: list[str] = []
            yield from arguments(source, parts.append)
            held = "".join(parts) if key in _ARGUMENTS else held
        else:
            raise NotACall
    if name is None:
        raise NotACall
    if held is None:
        show("{}")
    elif held:
        show(held)


def arguments(source: Source, show: Callable[[str], None]) -> Waiting:
    """Read a JSON value and show its text; of a string, the text that it holds."""
    yield from source.skip_space()
    if source.text[0] == '"':
        show((yield from _string(source)))
        return
    yield from json_value(source, show)


def json_value(source: Source, show: Callable[[str], None]) -> Waiting:
    """Pass one JSON value through as it arrives: an object or a list to its end, or a scalar."""
    yield from source.skip_space()
    if source.text[0] not in "{[":
        yield from _scalar(source, show)
        return
    depth, is_text = 0, False
    while True:
        count = 0
        for char in _escaped(source.text):
            count += len(char)
            is_text ^= char == '"'
            depth += 0 if is_text else (char in "{[") - (char in "}]")
            if depth == 0:
                show(source.take(count))
                return
        if count:
            show(source.take(count))
        yield from source.more()


def _escaped(text: str) -> Generator[str, None, None]:
    """The characters of `text`, a backslash together with what follows it; not half of that."""
    index = 0
    while index < len(text):
        length = 2 if text[index] == "\\" else 1
        if index + length > len(text):
            return
        yield text[index : index + length]
        index += length


def _scalar(source: Source, show: Callable[[str], None]) -> Waiting:
    text = ""
    while not ((yield from source.char()) in ",}]" or source.text[0].isspace()):
        text += source.take(1)
    try:
        json.loads(text)
    except ValueError:
        raise NotACall from None
    show(text)


def _string(source: Source) -> Generator[None, None, str]:
    yield from source.skip_space()
    if source.text[0] != '"':
        raise NotACall
    text, piece = source.take(1), ""
    while piece != '"':
        is_escape = (yield from source.char()) == "\\"
        if is_escape and len(source.text) < 2:
            yield from source.more()
        piece = source.take(2 if is_escape else 1)
        text += piece
    try:
        return str(json.loads(text, strict=False))
    except ValueError:
        raise NotACall from None


def _expect(source: Source, char: str) -> Waiting:
    yield from source.skip_space()
    if source.text[0] != char:
        raise NotACall
    source.take(1)


def _has_ended(source: Source, end: str) -> Generator[None, None, bool]:
    """Whether `end` follows, which is taken; a comma between two items is taken too."""
    yield from source.skip_space()
    if source.text[0] == ",":
        source.take(1)
        yield from source.skip_space()
    if source.text[0] != end:
        return False
    source.take(1)
    return True
