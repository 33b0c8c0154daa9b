"""A client's place in a job's token log: exactly once, in order, by list index.

Knows no Redis, no HTTP and no clock.
"""

import asyncio
from array import array
from collections.abc import Callable

from workers import contract

MAX_WAITING = 1024  # entries that a slow client may leave untaken; the rest stays in the log

# Made here, so it has no place in the log and no event number.
_REWRITTEN = contract.Failed(
    -1,
    "job_lost",
    "The end of the job's log was lost, and what was made anew differs from what was sent.",
)


class Reader:
    """Takes a job's log entries in order, whatever order and however often they arrive.

    An entry with the expected index is kept, a lower one dropped, a higher one shows a gap that the
    relay fills from the log. A reader that is full keeps nothing more and so falls behind, which is
    the same thing.

    A Redis that crashed may lose the end of a log; the next attempt makes it again, a fence later.
    So every event is taken once by its number, too, and one that contradicts what was taken under
    its number ends the stream.
    """

    __slots__ = (
        "_events",
        "_marks",
        "_waiter",
        "_wakes_at_end",
        "end",
        "end_index",
        "is_drained",
        "is_gone",
        "is_over",
        "job_id",
        "next_index",
        "num_missing",
        "ping_due",
        "silent_ticks",
        "wants_pings",
    )

    def __init__(self, job_id: str, *, wakes_at_end: bool = False) -> None:
        self.job_id = job_id
        self.next_index = 0  # log index of the entry to accept next
        self.end_index = 0  # one past the highest index heard of
        self.is_over = False  # the terminal entry was accepted
        self.end: contract.Done | contract.Failed | None = None  # that entry
        self.is_gone = False  # the client left
        self.is_drained = False  # this process is going away
        self.wants_pings = False
        self.ping_due = False
        self.silent_ticks = 0
        self.num_missing = 0  # times in a row that neither job nor log was found
        self._events: list[contract.Event] = []
        self._marks = array("q")  # by event number: a hash of what it said
        self._waiter: asyncio.Future[None] | None = None
        self._wakes_at_end = wakes_at_end

    @property
    def is_full(self) -> bool:
        """True while there is no room for another entry."""
        return len(self._events) >= MAX_WAITING

    @property
    def is_behind(self) -> bool:
        """True if the log has entries that this reader missed and has room for."""
        return self.end_index > self.next_index and not self.is_over and not self.is_full

    @property
    def is_open(self) -> bool:
        """True while somebody waits for entries."""
        return not (self.is_gone or self.is_drained)

    @property
    def first(self) -> contract.Event | None:
        """The oldest entry not yet taken."""
        return self._events[0] if self._events else None

    def accept(self, index: int, event: contract.Event) -> None:
        """Hear of the entry at `index`; wakes the client once until it takes what there is."""
        if index >= self.end_index:
            self.end_index = index + 1
        if index != self.next_index or self.is_over or len(self._events) >= MAX_WAITING:
            return
        self.next_index = index + 1
        self.silent_ticks = self.num_missing = 0
        fresh = self._fresh(event)
        if fresh is None:
            return
        self._events.append(fresh)
        if isinstance(fresh, contract.Done | contract.Failed):
            self.is_over, self.end = True, fresh
        if not self._wakes_at_end or self.is_over or len(self._events) >= MAX_WAITING:
            self._wake()

    def _fresh(self, event: contract.Event) -> contract.Event | None:
        """What of an entry was not taken before; a failure if it contradicts what was."""
        if isinstance(event, contract.Fence):
            return None
        marks, taken = _marks(event), self._marks
        num_repeated = len(taken) - event.offset
        if num_repeated <= 0 or event.offset < 0:
            taken.extend(marks)
            return event
        if taken[event.offset : event.offset + len(marks)].tolist() != marks[:num_repeated]:
            return _REWRITTEN
        taken.extend(marks[num_repeated:])
        if num_repeated >= len(marks):
            return None
        if isinstance(event, contract.Vectors):
            return event.behind(num_repeated)
        if not isinstance(event, contract.Tokens):
            return None
        return contract.Tokens(event.offset + num_repeated, event.deltas[num_repeated:])

    def fail(self, failed: contract.Failed) -> None:
        """End the stream here with an error that the log does not have."""
        self._events.append(failed)
        self.is_over, self.end = True, failed
        self._wake()

    def leave(self) -> None:
        """The client closed its connection."""
        self.is_gone = True
        self._wake()

    def drain(self) -> None:
        """The process stops; the client may go on elsewhere."""
        self.is_drained = True
        self._wake()

    def ping(self) -> None:
        """Nothing was said for a while; only an open stream gets pings."""
        if self.wants_pings:
            self.ping_due = True
            self._wake()

    def take(self) -> list[contract.Event]:
        """What has arrived since the last call, without fences."""
        events, self._events = self._events, []
        return events

    async def wait(self) -> None:
        """Return when there is something to take, or a reason to stop, or a ping to send."""
        if self._events and (not self._wakes_at_end or self.is_over or self.is_full):
            return
        if self.is_over or not self.is_open or self.ping_due:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def collect(
        self, take: Callable[[list[contract.Event]], None], on_room: Callable[["Reader"], None]
    ) -> None:
        """Hand all that comes to `take`, until the end, or until nobody waits any more.

        `on_room` is called when this reader was full and has room again.
        """
        while not self.is_over or self._events:
            await self.wait()
            if self.is_gone or (self.is_drained and not self.is_over):
                return
            take(self.take())
            if self.is_behind:
                on_room(self)

    async def wait_for(self, timeout_s: float) -> None:
        """As `wait`, but for `timeout_s` at most."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.wait()
        except TimeoutError:
            return

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _marks(event: contract.Event) -> list[int]:
    """A hash of each of the entry's events: the same of the same choice, the same hash."""
    if isinstance(event, contract.Tokens):
        return [hash((delta.choice, delta.token_ids)) for delta in event.deltas]
    if isinstance(event, contract.Vectors):
        # Another batch rounds otherwise: the same input's vector is as good.
        return [hash((contract.Vectors, event.first + i)) for i in range(event.num)]
    return [hash(type(event))]
