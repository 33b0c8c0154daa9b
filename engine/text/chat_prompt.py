"""A conversation as a prompt: rendered by the template, then encoded. Knows no files."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from engine.text.chat_template import ChatTemplate
from engine.text.control_text import cut
from engine.text.tokenizer import Tokenizer


class ChatPrompt(NamedTuple):
    """The rendered text in parts: control tokens of the template's in them are ones, and whole."""

    parts: list[str]

    @property
    def text(self) -> str:
        """The prompt as it reads."""
        return "".join(self.parts)

    def encode(self, tokenizer: Tokenizer) -> list[int]:
        """Token ids. Raises InvalidInput for text that is not Unicode."""
        ids = (tokenizer.encode(part, add_special_tokens=False) for part in self.parts)
        return [id_ for part in ids for id_ in part]


def render_chat(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    /,
    **variables: Any,
) -> ChatPrompt:
    """Render as `ChatTemplate.render` does; a control token in a message's text stays text."""
    return ChatPrompt(cut(template.render(tokenizer.control_text.guard(messages), **variables)))
