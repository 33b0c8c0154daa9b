"""Sequences whose grammars are being compiled: they join the others when that is done.

Knows futures, no grammar.
"""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING

from engine.errors import EngineError
from engine.sequence import Sequence

if TYPE_CHECKING:
    from engine.grammar import Grammar

WAIT_S = 0.02  # when nothing else is to be done; a command may come meanwhile


class Compiling:
    """The sequences by id, in order of arrival."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[Sequence, Future[Grammar]]] = {}

    def __contains__(self, sequence_id: str) -> bool:
        return sequence_id in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence, future: "Future[Grammar]") -> None:
        """Keep a sequence until its grammar is there."""
        self._waiting[sequence.id] = (sequence, future)

    def cancel(self, sequence_id: str) -> None:
        """Forget a sequence; an unknown id is ignored."""
        _, future = self._waiting.pop(sequence_id, (None, None))
        if future is not None:
            future.cancel()

    def take_done(self, *, is_idle: bool) -> Iterator[tuple[Sequence, EngineError | None]]:
        """Those that are ready, with why they cannot run if so; waits a little if `is_idle`."""
        if is_idle:
            futures = [future for _, future in self._waiting.values()]
            wait(futures, timeout=WAIT_S, return_when=FIRST_COMPLETED)
        for sequence, future in list(self._waiting.values()):
            if future.done():
                del self._waiting[sequence.id]
                yield sequence, _settle(sequence, future)


def _settle(sequence: Sequence, future: "Future[Grammar]") -> EngineError | None:
    try:
        sequence.grammar = future.result()
    except EngineError as error:
        return error
    return None
