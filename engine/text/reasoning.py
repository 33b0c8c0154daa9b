"""Where a model thinks aloud: the marks around its reasoning, and a reader of them."""

from collections.abc import Callable
from typing import NamedTuple

from engine.text.tools.source import Source, Waiting


class Thinking(NamedTuple):
    """The texts, most of them special tokens, before and behind a model's reasoning."""

    begin: str
    end: str


KNOWN = (
    Thinking("<think>", "</think>"),
    Thinking("[THINK]", "[/THINK]"),
    Thinking("<|START_THINKING|>", "<|END_THINKING|>"),
    Thinking("<seed:think>", "</seed:think>"),
)


def thinking_of(template: str) -> Thinking | None:
    """The marks that a chat template knows."""
    return next((marks for marks in KNOWN if marks.end in template), None)


def is_thinking(prompt: str, marks: Thinking) -> bool:
    """Whether a prompt ends inside of the reasoning, which the answer then begins with."""
    return prompt.rstrip().endswith(marks.begin)


def read_reasoning(
    source: Source,
    marks: Thinking,
    think: Callable[[str], None],
    say: Callable[[str], None],
    *,
    has_begun: bool,
) -> Waiting:
    """Read a whole answer: reasoning is at its beginning, if anywhere; the rest is said."""
    if not has_begun:
        space = yield from source.leading_space()
        has_begun = yield from source.starts_with(space + marks.begin)
        if has_begun:
            source.take(len(space + marks.begin))
    if has_begun:
        yield from source.skip_space()
        yield from source.pass_until([marks.end], _without_last_space(think))
        yield from source.skip_space()
    yield from source.pass_all(say)


def _without_last_space(show: Callable[[str], None]) -> Callable[[str], None]:
    """Shows white space only once something follows it."""
    held = ""

    def show_text(text: str) -> None:
        nonlocal held
        text = held + text
        kept = text.rstrip()
        held = text[len(kept) :]
        if kept:
            show(kept)

    return show_text
