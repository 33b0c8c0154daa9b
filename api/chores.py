"""Durable background work: any API process takes what is due, and one that dies is replaced.

Knows due times in Redis, not what a chore is.
"""

import asyncio
import contextlib
import logging
import random
import traceback
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from redis.asyncio import Redis

from api.call import Call
from api.errors import ApiError
from workers import contract

logger = logging.getLogger(__name__)

VISIBILITY_S = 30.0  # a chore that was taken and not finished comes back after this long
POLL_S = 0.5
MAX_RUNNING = 16
MAX_BACKOFF_S = 900.0
FAILURES_KEY = "chores:failures"  # HASH: chore -> how often in a row its handler failed
_GAP_S = 0.02  # a storm of wake-ups costs no more looks than this allows
_BUSY_S = 0.2  # a chore that is put in again while it is done here waits for so long
_CROWDED_S = (0.5, 1.0)  # and one of whose kind enough are done

# Does a chore, given what follows its kind. Returns None when there is no more to do, or the
# seconds after which it wants to be called again. It may be called twice, even at a time by two
# processes.
Handler = Callable[[str], Awaitable[float | None]]


class _Kind(NamedTuple):
    handler: Handler
    most: int  # done at a time


class _Hold:
    """A chore that is ours for as long as Redis has `score` for it."""

    def __init__(self, member: str, score: str) -> None:
        self.member = member
        self.score = score
        self.lock = asyncio.Lock()  # a change must know the score that the one before it set


class Chores:
    """What one API process does of the chores, whose names are `{kind}:{argument}`."""

    def __init__(self, redis: Redis, call: Call, *, visibility_s: float = VISIBILITY_S) -> None:
        self._call = call
        self._visibility_s = visibility_s
        self._take_script, self._change_script = (
            redis.register_script(contract.load_script(name)) for name in ("chores", "chore")
        )
        self._kinds: dict[str, _Kind] = {}
        self._strange: set[str] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._busy: set[str] = set()  # the chores that handlers are at
        self._kick = asyncio.Event()

    def register(self, kind: str, handler: Handler, *, most: int = MAX_RUNNING) -> None:
        """Have `handler` do the chores of a kind, `most` at a time; before `run`."""
        self._kinds[kind] = _Kind(handler, most)

    def wake(self) -> None:
        """Look now: something became due."""
        self._kick.set()

    async def put(self, chore: str, delay_s: float = 0.0) -> None:
        """Have a chore done in `delay_s`, or earlier if it was due earlier. Raises ApiError.

        One that is being done at the moment is done again.
        """
        await self._change("put", _Hold(chore, ""), delay_s)

    async def run(self) -> None:
        """Work until cancelled. What is unfinished then is left for another process at once."""
        try:
            while True:
                await self._turn()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _turn(self) -> None:
        num_free = MAX_RUNNING - len(self._running)
        for hold in await self._take(num_free) if num_free else ():
            task = asyncio.get_running_loop().create_task(self._do(hold))
            self._running.add(task)
            task.add_done_callback(self._end)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._kick.wait()
            await asyncio.sleep(_GAP_S)
        self._kick.clear()

    async def _take(self, num_free: int) -> list[_Hold]:
        args = [round(self._visibility_s * 1000), num_free]
        try:
            taken = await self._call(lambda: self._take_script([contract.CHORES_KEY], args))
        except ApiError as error:
            logger.debug("no chores: %s", error)  # who serves requests says it louder
            return []
        names = [item.decode() for item in taken]
        return [_Hold(*pair) for pair in zip(names[::2], names[1::2], strict=True)]

    def _end(self, task: asyncio.Task[None]) -> None:
        was_full = len(self._running) == MAX_RUNNING
        self._running.discard(task)
        if was_full:
            self._kick.set()  # more may be due than could be taken
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a chore was not finished", exc_info=error)

    async def _do(self, hold: _Hold) -> None:
        name, _, argument = hold.member.partition(":")
        kind = self._kinds.get(name)
        if kind is None:
            await self._pass_on(hold, name)
        elif hold.member in self._busy:
            await self._settle("renew", hold, _BUSY_S)
        elif sum(member.startswith(f"{name}:") for member in self._busy) >= kind.most:
            await self._settle("renew", hold, random.uniform(*_CROWDED_S))
        else:
            self._busy.add(hold.member)
            try:
                await self._handle(kind.handler, argument, hold)
            finally:
                self._busy.discard(hold.member)

    async def _handle(self, handler: Handler, argument: str, hold: _Hold) -> None:
        keeper = asyncio.get_running_loop().create_task(self._keep(hold))
        try:
            again_s = await handler(argument)
        except asyncio.CancelledError:
            await self._settle("renew", hold, 0.0)
            raise
        except Exception as error:
            await self._fail(hold, error)
        else:
            await self._settle("done" if again_s is None else "again", hold, again_s or 0.0)
        finally:
            keeper.cancel()

    async def _keep(self, hold: _Hold) -> None:
        """Renew what a handler takes long for; not a chore that was put in again meanwhile."""
        while hold.score != "0":
            await asyncio.sleep(self._visibility_s / 3)
            await self._settle("renew", hold, self._visibility_s)

    async def _pass_on(self, hold: _Hold, kind: str) -> None:
        """Leave a chore to processes of another version, which know it."""
        if kind not in self._strange:
            self._strange.add(kind)
            logger.warning("nobody here does chores of the kind %r", kind)
        # at random, or the same process would be the first to see it again
        await self._settle("again", hold, self._visibility_s * random.uniform(0.3, 1.0))

    async def _fail(self, hold: _Hold, error: Exception) -> None:
        if isinstance(error, ApiError) and error.code == "queue_unavailable":
            logger.debug("chore %s waits for Redis", hold.member)
            return
        # The message is left out: it may quote what a client sent.
        trace = "".join(traceback.format_tb(error.__traceback__))
        logger.error("chore %s failed: %s, at\n%s", hold.member, type(error).__name__, trace)
        await self._settle("failed", hold, self._visibility_s)

    async def _settle(self, what: str, hold: _Hold, delay_s: float) -> None:
        """Change a chore that is ours; without Redis it comes back by itself."""
        try:
            async with hold.lock:
                hold.score = await self._change(what, hold, delay_s)
        except ApiError as error:
            logger.debug("chore %s was not settled: %s", hold.member, error)

    async def _change(self, what: str, hold: _Hold, delay_s: float) -> str:
        args: list[str | int] = [
            what,
            hold.member,
            hold.score,
            round(delay_s * 1000),
            round(MAX_BACKOFF_S * 1000),
            contract.CHORES_CHANNEL,
        ]
        names = [contract.CHORES_KEY, FAILURES_KEY]
        score: bytes = await self._call(lambda: self._change_script(names, args))
        return score.decode()
