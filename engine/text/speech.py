"""What a model says, in parts: its reasoning, its answer, and the tools it calls. Plain data."""

from collections.abc import Iterable
from typing import NamedTuple


class Call(NamedTuple):
    """A piece of tool call `number`: its name, once, and then its arguments' text."""

    number: int
    name: str | None
    arguments: str


class Said(NamedTuple):
    """What some text turned out to be."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()

    def then(self, more: "Said") -> "Said":
        """This and what was said after it."""
        return Said(
            self.content + more.content, self.reasoning + more.reasoning, self.calls + more.calls
        )


class Parts:
    """Gathers what readers find. White space between calls, and before one, is nobody's."""

    def __init__(self, tool_names: Iterable[str] = (), max_calls: int | None = None) -> None:
        """Of calls beyond `max_calls` nothing is told."""
        self.num_calls = 0
        self._max_calls = max_calls
        self._tool_names = frozenset(tool_names)
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[Call] = []
        self._space = ""  # it is content if more content follows

    def content(self, text: str) -> None:
        """A piece of the answer."""
        text = self._space + text
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if kept:
            self._content.append(kept)

    def reasoning(self, text: str) -> None:
        """A piece of what is thought before the answer."""
        self._reasoning.append(text)

    def begin(self, name: str) -> bool:
        """A call of a tool."""
        self._space = ""
        self._calls.append(Call(self.num_calls, name, ""))
        self.num_calls += 1
        return True

    def begin_known(self, name: str) -> bool:
        """The same, if the request has that tool."""
        return name in self._tool_names and self.begin(name)

    def arguments(self, text: str) -> None:
        """A piece of the latest call's arguments."""
        self._calls.append(Call(self.num_calls - 1, None, text))

    def end(self) -> None:
        """Nothing follows any more."""
        if not self.num_calls and self._space:
            self._content.append(self._space)
        self._space = ""

    def take(self) -> Said:
        """What was found since the last time."""
        calls = _merged(self._calls)
        if self._max_calls is not None:
            calls = tuple(call for call in calls if call.number < self._max_calls)
        said = Said("".join(self._content), "".join(self._reasoning), calls)
        self._content, self._reasoning, self._calls = [], [], []
        return said


def _merged(calls: Iterable[Call]) -> tuple[Call, ...]:
    merged: list[Call] = []
    for call in calls:
        if merged and merged[-1].number == call.number and call.name is None:
            last = merged[-1]
            merged[-1] = last._replace(arguments=last.arguments + call.arguments)
        else:
            merged.append(call)
    return tuple(merged)
