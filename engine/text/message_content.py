"""Fits a message's content, text or parts, to what a chat template expects. Knows no tokens."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from jinja2 import nodes

from engine.errors import InvalidInput


class ContentForm(Enum):
    """What a template can take as `message.content`."""

    TEXT = "text"
    PARTS = "parts"
    BOTH = "both"


def content_form(tree: nodes.Template) -> ContentForm:
    """A template that loops over `content` takes parts; with an `is string` test, text too."""
    contents = {
        node.target.name
        for node in tree.find_all(nodes.Assign)
        if isinstance(node.target, nodes.Name) and _is_content(node.node, frozenset())
    }
    loops = (_is_content(node.iter, contents) for node in tree.find_all(nodes.For))
    if not any(loops):
        return ContentForm.TEXT
    tests = tree.find_all(nodes.Test)
    is_string_tested = any(test.name == "string" for test in tests)
    return ContentForm.BOTH if is_string_tested else ContentForm.PARTS


def _is_content(node: nodes.Node | None, names: frozenset[str] | set[str]) -> bool:
    if isinstance(node, nodes.Filter):
        return _is_content(node.node, names)
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    return isinstance(node, nodes.Name) and node.name in names


def fit_messages(
    messages: Sequence[Mapping[str, Any]], form: ContentForm
) -> list[Mapping[str, Any]]:
    """The messages, each content in a form that the template takes; parts are joined by newlines.

    Raises InvalidInput for a message that is no object and for a part that is no text.
    """
    return [_fit(message, form) for message in messages]


def _fit(message: Any, form: ContentForm) -> Mapping[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidInput("Each message must be an object.", param="messages")
    content = message.get("content")
    if isinstance(content, list):
        texts = [_text(part) for part in content]
        return {**message, "content": "\n".join(texts)} if form is ContentForm.TEXT else message
    if isinstance(content, str) and form is ContentForm.PARTS:
        return {**message, "content": [{"type": "text", "text": content}]}
    return message


def _text(part: Any) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text":
        text = part.get("text")
        if isinstance(text, str):
            return text
    raise InvalidInput("This model takes content parts of type text only.", param="messages")
