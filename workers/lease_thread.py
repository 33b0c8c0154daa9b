"""Renews the leases from a thread of its own, so that a busy event loop loses none. Knows no token.

A worker that does not work must lose them, so the thread asks the loop for a sign: it renews only
if the loop turned lately. In the same turn the loop looks after its engine (watch.py), whose hang
ends as a death does. What Redis says of the jobs goes to the loop.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.contract import load_script
from workers.lease import Leases
from workers.redis_link import COMMAND_TIMEOUT_S, TRANSIENT, as_transient

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
RETRY_S = 0.1
LOOP_S = 10.0  # an event loop that has not turned for so long hangs
JOIN_S = 2.0


class LeaseThread:
    """Renews every third of a lease while the loop turns; `look` is called there in between.

    `look_s` is the longest time between two looks, in seconds.
    """

    def __init__(
        self,
        leases: Leases,
        url: str,
        look: Callable[[float], None],
        *,
        look_s: float,
        loop_s: float = LOOP_S,
    ) -> None:
        self._leases = leases
        self._look = look
        self._period_s = leases.lease_ms / 1000 / RENEWALS_PER_LEASE
        self._look_s = min(look_s, self._period_s)
        self._loop_s = loop_s
        timeout_s = min(COMMAND_TIMEOUT_S, max(self._period_s, 0.5))
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        self._script = self._client.register_script(load_script("renew"))
        self._stop = threading.Event()
        self._turned_at_s = time.monotonic()
        self._is_asked = False
        self._has_stalled = False

    async def run(self) -> None:
        """Renew until cancelled. Raises what the thread could not bear."""
        loop = asyncio.get_running_loop()
        failed: asyncio.Future[None] = loop.create_future()
        self._turned_at_s = time.monotonic()
        thread = threading.Thread(
            target=self._work, args=(loop, failed), name="leases", daemon=True
        )
        thread.start()
        try:
            await failed
        finally:
            self._stop.set()
            await asyncio.to_thread(thread.join, JOIN_S)

    def _work(self, loop: asyncio.AbstractEventLoop, failed: asyncio.Future[None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            try:
                self._renew_until_stopped(loop)
            except Exception as error:
                loop.call_soon_threadsafe(_fail, failed, error)
        self._client.close()

    def _renew_until_stopped(self, loop: asyncio.AbstractEventLoop) -> None:
        due_s = 0.0
        while not self._stop.wait(self._pause_s(due_s)):
            self._ask(loop)
            if time.monotonic() >= due_s and self._loop_turns():
                is_renewed = self._renew(loop)
                due_s = time.monotonic() + (self._period_s if is_renewed else RETRY_S)

    def _pause_s(self, due_s: float) -> float:
        return max(min(self._look_s, due_s - time.monotonic()), RETRY_S / 2)

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask the loop for a sign of life, unless it still owes us one."""
        if not self._is_asked:
            self._is_asked = True
            loop.call_soon_threadsafe(self._turn)

    def _turn(self) -> None:
        """The loop's answer."""
        self._turned_at_s = time.monotonic()
        self._is_asked = False
        self._look(self._turned_at_s)

    def _loop_turns(self) -> bool:
        stalled_s = time.monotonic() - self._turned_at_s
        if (stalled_s > self._loop_s) is not self._has_stalled:
            self._has_stalled = not self._has_stalled
            if self._has_stalled:
                logger.error("the event loop hangs since %.1f s: leases run out", stalled_s)
        return not self._has_stalled

    def _renew(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Renew once; False if Redis is away."""
        renewal = self._leases.renewal()
        states: list[int] = []
        try:
            if renewal.claims:
                states = self._script(keys=renewal.keys, args=renewal.args)
        except redis.RedisError as error:
            if not isinstance(as_transient(error), TRANSIENT):
                raise
            return False
        except OSError:
            return False
        loop.call_soon_threadsafe(self._leases.note, renewal, states)
        return True


def _fail(failed: asyncio.Future[None], error: Exception) -> None:
    if not failed.done():
        failed.set_exception(error)
