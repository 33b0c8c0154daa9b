"""Finds stop strings in a text that arrives in parts. Knows no tokens."""

from collections.abc import Sequence

from engine.errors import InvalidInput


class StopStrings:
    """Lets text through until a stop string is complete: the first one, of several the longest.

    Holds back only the longest end of the text that could still become a stop string. What comes
    out depends on the text alone, not on how it was cut into pushes. Cost: the characters pushed
    times the number of stop strings, by the failure functions of Knuth, Morris and Pratt.
    """

    def __init__(self, stops: Sequence[str], *, is_shown: bool = False) -> None:
        """`is_shown`: the stop string that is met comes out too."""
        if not all(stops):
            raise InvalidInput("A stop string must not be empty.", param="stop")
        self._matchers = [_Matcher(stop) for stop in dict.fromkeys(stops)]
        self._is_shown = is_shown
        self._held = ""
        self.matched: str | None = None  # the stop string that was met

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is now safe to show, and whether a stop string was met; if so, the end."""
        if self.matched is not None:
            return "", True
        if not self._matchers:
            return text, False
        held = self._held + text
        for position, char in enumerate(text, start=len(self._held) + 1):
            if stop := self._advance(char):
                self.matched, self._held = stop, ""
                return held[: position if self._is_shown else position - len(stop)], True
        keep = max(matcher.length for matcher in self._matchers)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held

    def _advance(self, char: str) -> str:
        """The longest stop string that `char` completes, or none."""
        stops = [matcher.stop for matcher in self._matchers if matcher.advance(char)]
        return max(stops, key=len, default="")


class _Matcher:
    """One stop string. `length` is how much of it the end of the text spells.

    `_borders` has, for each prefix that the text has spelled so far, the length of the longest
    shorter one that is also its suffix: a stop string of megabytes costs nothing before it is met.
    """

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.length = 0
        self._borders = [0]

    def advance(self, char: str) -> bool:
        """Take one character; true if the stop string is complete."""
        self.length = self._longest(self.length, char)
        if self.length > len(self._borders):
            self._borders.append(self._longest(self._borders[-1], char))
        return self.length == len(self.stop)

    def _longest(self, length: int, char: str) -> int:
        while length and self.stop[length] != char:
            length = self._borders[length - 1]
        return length + (self.stop[length] == char)
