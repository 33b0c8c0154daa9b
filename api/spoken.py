"""One answer as the parts that it was said in: thoughts, words, calls. Pure; knows no format."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from workers.contract import CallDelta, Delta

Kind = Literal["reasoning", "text", "call"]


class Piece(NamedTuple):
    """A piece of a part; `call` is that of a tool."""

    kind: Kind
    text: str
    call: CallDelta | None = None


class Part:
    """A part that grows."""

    def __init__(self, first: Piece) -> None:
        self.kind = first.kind
        self.call = first.call
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """What was thought or said, or a call's arguments, so far."""
        return "".join(self._texts)

    def takes(self, piece: Piece) -> bool:
        """True if the piece belongs to this part; a call's first piece has its id."""
        return piece.kind == self.kind and (piece.call is None or piece.call.id is None)

    def add(self, text: str) -> None:
        """Let the part grow."""
        self._texts.append(text)


class Spoken:
    """What one choice has said so far."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._has_answered = False
        self._num_before = 0  # tokens before the first word or call

    @property
    def reasoning_tokens(self) -> int:
        """Tokens that were thought and not said, the marks around them included; by a few, for the
        text of a token may come later than the token.
        """
        is_thought = any(part.kind == "reasoning" for part in self.parts)
        return self._num_before if is_thought else 0

    def pieces(self, delta: Delta) -> Iterator[Piece]:
        """What one step made, in the order in which it is said."""
        self._has_answered = self._has_answered or bool(delta.text or delta.calls)
        if not self._has_answered:
            self._num_before += len(delta.token_ids)
        if delta.reasoning:
            yield Piece("reasoning", delta.reasoning)
        if delta.text:
            yield Piece("text", delta.text)
        for call in delta.calls or ():
            yield Piece("call", call.arguments, call)

    def say(self, piece: Piece) -> bool:
        """Put a piece where it belongs; true if it began a part."""
        begins = not self.parts or not self.parts[-1].takes(piece)
        if begins:
            self.parts.append(Part(piece))
        self.parts[-1].add(piece.text)
        return begins
