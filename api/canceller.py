"""Gives jobs up in the background, in order and with retries. Knows no Redis."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from api.errors import ApiError

logger = logging.getLogger(__name__)

GIVE_UP_S = 60.0
_RETRY_S = 0.5


class Cancel(NamedTuple):
    """A job to give up: its id, the API process whose channel carries its events, and its queue.

    `ttl_s` is how long record and log outlive the end; 0: as configured.
    """

    job_id: str
    home: str
    queue: str
    ttl_s: int = 0


class Canceller:
    """One queue of cancels per process, so a long outage of Redis does not pile up tasks."""

    def __init__(self, send: Callable[[Cancel], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: deque[tuple[Cancel, float]] = deque()
        self._kick = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def put(self, cancel: Cancel) -> None:
        """Send `cancel` as soon as possible."""
        self._waiting.append((cancel, time.monotonic()))
        self._idle.clear()
        self._kick.set()

    async def settle(self, timeout_s: float) -> None:
        """Wait until nothing waits any more, for `timeout_s` at most."""
        await asyncio.wait([asyncio.ensure_future(self._idle.wait())], timeout=timeout_s)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            while self._waiting:
                await self._send_next(*self._waiting[0])
            self._idle.set()
            await self._kick.wait()
            self._kick.clear()

    async def _send_next(self, cancel: Cancel, since_s: float) -> None:
        try:
            await self._send(cancel)
        except ApiError as error:
            if time.monotonic() - since_s < GIVE_UP_S:
                await asyncio.sleep(_RETRY_S)
                return
            logger.error("job %s was not cancelled: %s", cancel.job_id, error)
        self._waiting.popleft()
