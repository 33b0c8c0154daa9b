"""Hears what is reasoning, answer and tool call in a text as it arrives. Knows no tokens."""

from collections.abc import Iterable

from engine.text.reasoning import Thinking, read_reasoning
from engine.text.speech import Parts, Said
from engine.text.tools.formats import Format
from engine.text.tools.source import Reading


class Listener:
    """Takes one answer apart. Together, what it tells does not depend on how the text was cut.

    Without `tools` nothing is a call, without `thinking` nothing is reasoning; `is_thinking` says
    that the prompt ended inside of it.
    """

    def __init__(
        self,
        *,
        tools: Format | None = None,
        tool_names: Iterable[str] = (),
        max_calls: int | None = None,
        thinking: Thinking | None = None,
        is_thinking: bool = False,
    ) -> None:
        parts = self._parts = Parts(tool_names, max_calls)
        self._readings: list[Reading] = []
        self._hear = parts.content
        if tools is not None:
            read = tools.read
            self._add(Reading(lambda source: read(source, parts)))
        if thinking is not None:
            self._add(
                Reading(
                    lambda source, say=self._hear: read_reasoning(  # type: ignore[misc]
                        source, thinking, parts.reasoning, say, has_begun=is_thinking
                    )
                )
            )

    def _add(self, reading: Reading) -> None:
        """Text goes through this reading first."""
        self._readings.insert(0, reading)
        self._hear = reading.push

    @property
    def num_calls(self) -> int:
        """Tool calls that have begun."""
        return self._parts.num_calls

    def push(self, text: str) -> Said:
        """What the next text turned out to be, as far as that is known."""
        if text:
            self._hear(text)
        return self._parts.take()

    def end(self) -> Said:
        """The rest, when no more text comes."""
        for reading in self._readings:
            reading.end()
        self._parts.end()
        return self._parts.take()
