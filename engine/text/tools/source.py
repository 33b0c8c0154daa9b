"""Text that arrives in parts, for readers that are written as if all of it were there.

A reader is a generator over a Source: it yields whenever it needs more text. Knows no format.
"""

from collections.abc import Callable, Generator, Sequence

# What a reader is: it yields to wait for text, and takes nothing back.
Waiting = Generator[None, None, None]


class EndOfText(Exception):
    """The text is over, and something was still to come."""


class Source:
    """The text that a reader has not taken yet."""

    def __init__(self) -> None:
        self.text = ""
        self.is_over = False
        self._taken: list[str] | None = None

    def more(self) -> Waiting:
        """Wait until there is more text. Raises EndOfText."""
        length = len(self.text)
        while len(self.text) == length:
            if self.is_over:
                raise EndOfText
            yield

    def take(self, count: int) -> str:
        """The next characters, which are there."""
        taken, self.text = self.text[:count], self.text[count:]
        if self._taken is not None:
            self._taken.append(taken)
        return taken

    def remember(self) -> None:
        """From here on, keep what is taken, so that it can be given back."""
        self._taken = []

    def taken(self) -> str:
        """What was taken since `remember`, which ends."""
        taken, self._taken = "".join(self._taken or ()), None
        return taken

    def char(self) -> Generator[None, None, str]:
        """The next character, not taken. Raises EndOfText."""
        if not self.text:
            yield from self.more()
        return self.text[0]

    def skip_space(self) -> Waiting:
        """Take white space. Raises EndOfText if nothing follows it."""
        while (yield from self.char()).isspace():
            self.take(1)

    def leading_space(self) -> Generator[None, None, str]:
        """The white space that comes next, not taken; all of it, so something else follows."""
        while not self.text.strip() and not self.is_over:
            try:
                yield from self.more()
            except EndOfText:
                break
        return self.text[: len(self.text) - len(self.text.lstrip())]

    def pass_all(self, show: Callable[[str], None]) -> Waiting:
        """Show all text. Raises EndOfText when it is over."""
        while True:
            if self.text:
                show(self.take(len(self.text)))
            yield from self.more()

    def pass_until(
        self, marks: Sequence[str], show: Callable[[str], None]
    ) -> Generator[None, None, str]:
        """Show all text up to the first of `marks`, take that too and return it.

        Holds back only what may be the beginning of one. Raises EndOfText when all is shown.
        """
        while True:
            places = [(self.text.find(mark), mark) for mark in marks]
            found = min((place for place in places if place[0] >= 0), default=None)
            if found is not None:
                if found[0]:
                    show(self.take(found[0]))
                return self.take(len(found[1]))
            safe = len(self.text) - max(_overlap(self.text, mark) for mark in marks)
            if safe:
                show(self.take(safe))
            try:
                yield from self.more()
            except EndOfText:
                if self.text:
                    show(self.take(len(self.text)))
                raise

    def starts_with(self, mark: str) -> Generator[None, None, bool]:
        """Whether the text goes on with `mark`; it is not taken."""
        while len(self.text) < len(mark) and mark.startswith(self.text):
            try:
                yield from self.more()
            except EndOfText:
                return False
        return self.text.startswith(mark)


class Reading:
    """A reader at work on a text as it arrives."""

    def __init__(self, read: Callable[[Source], Waiting]) -> None:
        self._source = Source()
        self._reader = read(self._source)
        self._is_done = False

    def push(self, text: str) -> None:
        """Some more text."""
        self._source.text += text
        self._go_on()

    def end(self) -> None:
        """That was all."""
        self._source.is_over = True
        while not self._is_done:
            self._go_on()

    def _go_on(self) -> None:
        try:
            next(self._reader)
        except (StopIteration, EndOfText):
            self._is_done = True


def _overlap(text: str, mark: str) -> int:
    """Characters at the end of `text` that begin `mark`."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
