"""A conversation as a prompt: rendered by the template, then encoded. Knows no files."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from engine.errors import InvalidInput
from engine.text.chat_template import ChatTemplate
from engine.text.control_text import TEXT_END, cut
from engine.text.tokenizer import Tokenizer


class ChatPrompt(NamedTuple):
    """The rendered text in parts: control tokens of the template's in them are ones, and whole."""

    parts: list[str]

    @property
    def text(self) -> str:
        """The prompt as it reads."""
        return "".join(self.parts)

    def tail(self, num_chars: int) -> "ChatPrompt":
        """The last characters of the text."""
        parts: list[str] = []
        for part in reversed(self.parts):
            if num_chars <= 0:
                break
            parts.append(part[-num_chars:])
            num_chars -= len(part)
        return ChatPrompt(parts[::-1])

    def encode(self, tokenizer: Tokenizer) -> list[int]:
        """Token ids. Raises InvalidInput for text that is not Unicode."""
        ids = (tokenizer.encode(part, add_special_tokens=False) for part in self.parts)
        return [id_ for part in ids for id_ in part]


def render_chat(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    /,
    *,
    continues_message: bool = False,
    **variables: Any,
) -> ChatPrompt:
    """Render as `ChatTemplate.render` does; a control token in a message's text stays text.

    With `continues_message` the prompt ends with the text of the last message, whose `content` is
    text. Raises InvalidInput if the template does not show that.
    """
    guarded = tokenizer.control_text.guard(messages)
    if not continues_message:
        return ChatPrompt(cut(template.render(guarded, **variables)))
    *earlier, last = guarded
    marked = {**last, "content": last["content"] + TEXT_END}
    variables["add_generation_prompt"] = False
    text, mark, _ = template.render([*earlier, marked], **variables).rpartition(TEXT_END)
    if not mark:
        raise InvalidInput(
            "The model's chat template does not show the last message, so that it cannot be "
            "continued.",
            "continue_final_message",
        )
    return ChatPrompt(cut(text))
