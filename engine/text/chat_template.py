"""Renders messages into a prompt with the model's own template. Knows no files and no tokens."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from engine.errors import InvalidInput, LoadError
from engine.text.message_content import content_form, fit_messages
from engine.text.reasoning import thinking_of
from engine.text.template_sandbox import (
    TemplateLimitError,
    TemplateLimits,
    TemplateProgram,
    TemplateRefusal,
)
from engine.text.tools.formats import format_of


class ChatTemplate:
    """A model's chat template, and the variant it may have for requests with tools.

    `special_tokens` are the names and texts (`bos_token`, …) that templates may use. `tool_format`
    and `thinking` are how the model writes tool calls and reasoning, as far as the template tells,
    and `shows_tools` whether it can show tools to the model; `source` is its text. Raises
    LoadError if a template does not compile.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        tools_source: str | None = None,
        limits: TemplateLimits | None = None,
    ) -> None:
        self._special_tokens = dict(special_tokens)
        self._plain = _Variant(source, limits)
        self._tools = self._plain if tools_source is None else _Variant(tools_source, limits)
        text = source + (tools_source or "")
        self.tool_format = format_of(text)
        self.thinking = thinking_of(text)
        self.shows_tools = "tools" in text
        self.source = text

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        now_s: float | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt, special tokens written out: encode it with `add_special_tokens=False`.

        `kwargs` are the caller's own variables. `now_s` (seconds since 1970) is what `strftime_now`
        tells, in UTC; give the time of the request, so that a second rendering is the first one.
        Raises InvalidInput when the template refuses the messages, fails on them, or goes over a
        limit.
        """
        variant = self._tools if tools else self._plain
        context = {
            **self._special_tokens,
            **kwargs,
            "messages": fit_messages(messages, variant.form),
            "tools": tools,
            "documents": kwargs.get("documents"),
            "add_generation_prompt": add_generation_prompt,
        }
        return variant.run(context, time.time() if now_s is None else now_s)


class _Variant:
    def __init__(self, source: str, limits: TemplateLimits | None) -> None:
        try:
            self._program = TemplateProgram(source, limits)
        except (jinja2.TemplateError, RecursionError) as error:
            raise LoadError(
                f"the model's chat template does not compile ({error}); "
                "put a corrected one beside it as chat_template.jinja."
            ) from error
        self.form = content_form(self._program.tree)

    def run(self, context: Mapping[str, Any], now_s: float) -> str:
        try:
            return self._program.run(context, now_s)
        except Exception as error:  # a template can raise anything that Python's operators can
            raise InvalidInput(_explain(error), param="messages") from error


def _explain(error: Exception) -> str:
    if isinstance(error, TemplateRefusal):
        return f"The model's chat template refused the messages: {error}"
    if isinstance(error, TemplateLimitError):
        return f"The model's chat template was stopped: {error}."
    return f"The model's chat template failed on these messages: {error or type(error).__name__}"
