"""The body of an event stream: a reader's events as frames, in one write for what is there.

Knows no Redis.
"""

from collections.abc import Callable

from api.delivery import Reader
from api.shape import Renderer
from api.stream import DRAINING, WAITING
from workers import contract


class EventStream:
    """The async iterator that the HTTP framework sends; it calls `close` in every case.

    `on_room` is called when a full reader has room again, `on_events` sees what is written,
    `on_close` ends it all.
    """

    def __init__(
        self,
        reader: Reader,
        frames: Renderer,
        *,
        on_room: Callable[[Reader], None],
        on_close: Callable[[], None],
        on_events: Callable[[list[contract.Event]], None] | None = None,
    ) -> None:
        self._reader = reader
        reader.wants_pings = True
        self._frames = frames
        self._on_room = on_room
        self._on_close = on_close
        self._on_events = on_events
        self._has_written = False
        self._is_ended = False

    def __aiter__(self) -> "EventStream":
        return self

    async def __anext__(self) -> bytes:
        reader = self._reader
        while not self._is_ended and not reader.is_gone:
            # Some servers hold the headers back until there is a body, so it starts at once.
            piece = self._piece() or (b"" if self._has_written else self._beginning())
            if piece:
                self._has_written = True
                reader.ping_due = False
                return piece
            if not self._is_ended:
                await reader.wait()
        raise StopAsyncIteration

    def _piece(self) -> bytes:
        reader = self._reader
        if events := reader.take():
            self._is_ended = reader.is_over
            if reader.is_behind:
                self._on_room(reader)
            if self._on_events is not None:
                self._on_events(events)
            if piece := self._frames.render(events):
                return piece
        if reader.is_drained:
            self._is_ended = True
            return DRAINING
        return self._frames.ping if reader.ping_due else b""

    def _beginning(self) -> bytes:
        return self._frames.render(()) or WAITING

    async def close(self) -> None:
        """Let go of the reader."""
        self._on_close()
