"""Hands published batches to the readers of each job, and repairs from the log what they missed.

Knows no Redis.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from api.delivery import Reader
from api.errors import ApiError
from workers import contract

logger = logging.getLogger(__name__)

REREAD_S = 2.0  # silence after which a live stream is read again
MAX_AT_ONCE = 64  # logs read in one go
MAX_MISSING = 3  # re-reads without a trace of the job before it is given up
_RETRY_S = 0.1

# Made here, so it has no place in the log and no event number.
_LOST = contract.Failed(-1, "job_lost", "The job's record expired or was lost.")


class LogSlice(NamedTuple):
    """Entries of one log from a given index on.

    `is_known` is False if neither log nor job record exists, `is_cut` True if the log may go on
    behind the slice.
    """

    entries: Sequence[bytes]
    is_known: bool = True
    is_cut: bool = False


ReadLogs = Callable[[Sequence[tuple[str, int]]], Awaitable[list[LogSlice]]]


class Relay:
    """The readers of one API process.

    `read_logs` reads (job, from index) pairs in one go and may raise ApiError.
    """

    def __init__(self, read_logs: ReadLogs, ping_s: float) -> None:
        self._read_logs = read_logs
        self._tick_s = min(1.0, ping_s / 3)
        self._ticks_per_ping = round(ping_s / self._tick_s)
        self._ticks_per_reread = math.ceil(REREAD_S / self._tick_s)
        self._readers: dict[str, list[Reader]] = {}
        self._asked: set[Reader] = set()
        self._is_blind = False  # the last read failed
        self._kick = asyncio.Event()
        self._occupied = asyncio.Event()

    @property
    def num_readers(self) -> int:
        """How many clients are being served."""
        return sum(map(len, self._readers.values()))

    def has_readers(self, job_id: str) -> bool:
        """True if somebody here reads the job."""
        return job_id in self._readers

    def add(self, reader: Reader) -> None:
        """Deliver the job's entries to `reader` from now on."""
        self._readers.setdefault(reader.job_id, []).append(reader)
        self._occupied.set()

    def remove(self, reader: Reader) -> None:
        """Forget a reader; unknown ones are ignored."""
        readers = self._readers.get(reader.job_id, [])
        if reader in readers:
            readers.remove(reader)
        if not readers:
            self._readers.pop(reader.job_id, None)
        if not self._readers:
            self._occupied.clear()
        self._asked.discard(reader)
        reader.leave()

    def deliver(self, data: bytes) -> None:
        """Hear a published batch.

        A batch that cannot be read is logged; the re-read after a silence replaces it.
        """
        try:
            items = contract.decode_batch(data)
        except contract.WireError as error:
            logger.error("%s", error)
            return
        readers_of = self._readers.get
        for job_id, index, payload in items:
            if readers := readers_of(job_id):
                self._feed(readers, index, payload)

    def ask(self, reader: Reader) -> None:
        """Read the reader's log from where it stands."""
        self._asked.add(reader)
        self._kick.set()

    def reread_all(self) -> None:
        """Read every log again: messages may have been missed."""
        for reader in self._all():
            self.ask(reader)

    def drain(self) -> None:
        """Tell every reader that the process stops."""
        for reader in self._all():
            reader.drain()

    async def run(self) -> None:
        """Repair and tick until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repair_for_ever())
            tasks.create_task(self._tick_for_ever())

    def _all(self) -> list[Reader]:
        return [reader for readers in self._readers.values() for reader in readers]

    def _feed(self, readers: Sequence[Reader], index: int, payload: bytes) -> None:
        event = _decode(payload)
        for reader in readers:
            reader.accept(index, event)
            if reader.is_behind:
                self.ask(reader)

    async def _repair_for_ever(self) -> None:
        while True:
            await self._kick.wait()
            self._kick.clear()
            todo = self._next_asked()
            places = [(reader.job_id, reader.next_index) for reader in todo]
            try:
                slices = await self._read_logs(places)
            except ApiError as error:
                self._note_failure(error)
                await asyncio.sleep(_RETRY_S)
                for reader in todo:
                    self.ask(reader)
                continue
            self._note_success()
            for reader, (_, start), found in zip(todo, places, slices, strict=True):
                self._repair(reader, start, found)

    def _note_failure(self, error: ApiError) -> None:
        if not self._is_blind:  # one line an outage
            logger.warning("logs cannot be read, trying again: %s", error)
        self._is_blind = True

    def _note_success(self) -> None:
        if self._is_blind:
            logger.warning("logs can be read again")
        self._is_blind = False

    def _next_asked(self) -> list[Reader]:
        """Some of those that asked; few enough that reading for them takes no time."""
        asked = list(islice(self._asked, MAX_AT_ONCE))
        self._asked.difference_update(asked)
        if self._asked:
            self._kick.set()
        return [r for r in asked if r.is_open and not r.is_over and not r.is_full]

    def _repair(self, reader: Reader, start: int, found: LogSlice) -> None:
        for index, payload in enumerate(found.entries, start):
            reader.accept(index, _decode(payload))
        # More is asked for at once only if this was of use: a log whose tail Redis lost would be
        # read in a loop.
        if found.entries and (found.is_cut or reader.is_behind):
            self.ask(reader)
        reader.num_missing = 0 if found.is_known else reader.num_missing + 1
        if reader.num_missing >= MAX_MISSING:
            reader.fail(_LOST)

    async def _tick_for_ever(self) -> None:
        while True:
            await self._occupied.wait()
            await asyncio.sleep(self._tick_s)
            for reader in self._all():
                self._tick(reader)

    def _tick(self, reader: Reader) -> None:
        reader.silent_ticks += 1
        if reader.silent_ticks % self._ticks_per_reread == 0 and not reader.is_full:
            self.ask(reader)
        if reader.silent_ticks % self._ticks_per_ping == 0:
            reader.ping()


def _decode(payload: bytes) -> contract.Event:
    try:
        return contract.decode_event(payload)
    except msgspec.MsgspecError as error:
        logger.error("a log entry cannot be read: %s", error)
        return contract.Failed(-1, "internal_error", "The job's log cannot be read.")
