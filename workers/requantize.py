"""Keeps the engine's weights what re_isq asked for, one worker of a model at a time.

Knows the wire and the engine's process, no tensor. `lua/isq.lua` has a change's life.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable
from typing import NamedTuple, cast

from arq.connections import ArqRedis

from engine.errors import LoadError
from workers.contract import Swap, encode, isq_key, isq_turn_key
from workers.engine_process import EngineDied, EngineProcess
from workers.heartbeat import Pulse
from workers.redis_link import COMMAND_TIMEOUT_S, TRANSIENT, Scripts

logger = logging.getLogger(__name__)

TURN_S = 6.0  # a worker that died in its turn keeps the others waiting for so long
RENEWALS_PER_TURN = 3
LIMIT_S = 3600.0  # for loading the weights of one engine


class Place(NamedTuple):
    """Whose weights these are. `own_isq` is the type that the worker's own setting names."""

    worker: str
    model: str
    own_isq: str

    @property
    def keys(self) -> list[str]:
        """What is written of the model's weights."""
        return [isq_key(self.model), isq_turn_key(self.model)]


class Turn(NamedTuple):
    """What a worker is to do now: have the weights of `change`, in type `isq`, "" its own."""

    change: str
    isq: str
    phase: str


class Wanted(NamedTuple):
    """Which weights a model's workers are to have; its own if nobody asked for others."""

    change: str = ""
    isq: str = ""


async def start_as_wanted(
    client: ArqRedis, scripts: Scripts, place: Place, engine: EngineProcess
) -> str:
    """Start an engine with the weights that it is to have; the change that they are of.

    One that cannot load them says so. If that gives the change up, it starts with those before.
    Raises LoadError and EngineDied.
    """
    wanted = await _wanted(client, place)
    while True:
        isq = wanted.isq or place.own_isq
        engine.set_isq(isq)
        try:
            await engine.start()
            return wanted.change
        except LoadError as error:
            if not wanted.change:
                raise
            swap = Swap(before=isq, after=isq, error=str(error))
            refused, wanted = wanted, await _after(client, scripts, place, wanted, swap)
            if wanted.change in ("", refused.change):
                raise


async def _after(
    client: ArqRedis, scripts: Scripts, place: Place, wanted: Wanted, swap: Swap
) -> Wanted:
    """What is wanted when it is known that this cannot be had."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            await _report(scripts, place, wanted.change, swap)
            return await _wanted(client, place)
    return Wanted()


async def _wanted(client: ArqRedis, place: Place) -> Wanted:
    """Nothing if Redis cannot be asked yet: a heartbeat tells it later."""
    with contextlib.suppress(*TRANSIENT):
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            fields = client.hmget(isq_key(place.model), ["change", "type"])
            found = await cast(Awaitable[list[bytes | None]], fields)
            return Wanted(*((value or b"").decode() for value in found))
    return Wanted()


async def _report(scripts: Scripts, place: Place, change: str, swap: Swap) -> None:
    """Say what a change came to here; an error gives it up for all workers."""
    args = [place.worker, place.model, change, encode(swap), swap.error]
    await scripts.insist("isq_report", keys=place.keys, args=args)


class Requantizer:
    """Makes the changes that are asked for. A turn that is not renewed ends after `turn_s`."""

    def __init__(
        self,
        scripts: Scripts,
        place: Place,
        engine: EngineProcess,
        pulse: Pulse,
        *,
        turn_s: float = TURN_S,
    ) -> None:
        self._scripts = scripts
        self._place = place
        self._engine = engine
        self._pulse = pulse
        self._turn_s = turn_s
        self._kick = asyncio.Event()
        pulse.on_wanted = self._note_wanted

    def _note_wanted(self, change: str) -> None:
        if change and change != self._pulse.isq_change and not self._pulse.is_draining:
            self._kick.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._kick.wait()
            self._kick.clear()
            with contextlib.suppress(*TRANSIENT):  # the next heartbeat asks for it again
                if (turn := await self._ask()) is not None:
                    await self._take(turn)

    async def _ask(self) -> Turn | None:
        """Take the turn, or hold it longer; None if there is nothing to do or another has it."""
        args = [self._place.worker, self._pulse.isq_change, round(self._turn_s * 1000)]
        reply: list[bytes] = await self._scripts.run("isq_turn", keys=self._place.keys, args=args)
        if not reply or reply[0] != b"go":
            return None
        return Turn(*(item.decode() for item in reply[1:]))

    async def _take(self, turn: Turn) -> None:
        before, after = self._pulse.isq, turn.isq or self._place.own_isq
        began_s = time.monotonic()
        error = "" if after == before else await self._change(after)
        if error and turn.phase != "rolling":
            # The others have them: a restart costs less than a fleet of two minds.
            logger.error("re_isq %s: %s Starting the engine again instead", turn.change, error)
            self._engine.restart_with(after)
            await self._engine.ready()
            error = ""
        took_ms = round(1000 * (time.monotonic() - began_s))
        swap = Swap(before=before, after=before if error else after, took_ms=took_ms, error=error)
        if error:
            logger.error("re_isq %s: %s The weights stay as they were", turn.change, error)
        else:
            logger.info("re_isq %s: %r became %r in %d ms", turn.change, before, after, took_ms)
        await _report(self._scripts, self._place, turn.change, swap)
        if not error:
            self._pulse.isq, self._pulse.isq_change = after, turn.change
        self._pulse.nudge()

    async def _change(self, isq: str) -> str:
        """Have the engine change its weights; if it did not, why: a whole sentence."""
        keeper = asyncio.create_task(self._keep_turn())
        try:
            async with asyncio.timeout(LIMIT_S):
                await self._engine.ready()
                await self._engine.requantize(isq)
        except LoadError as error:
            return str(error)
        except EngineDied as error:
            return f"{error}."
        except TimeoutError:
            return f"The engine did not load the new weights within {LIMIT_S:.0f} s."
        finally:
            keeper.cancel()
        return ""

    async def _keep_turn(self) -> None:
        while True:
            await asyncio.sleep(self._turn_s / RENEWALS_PER_TURN)
            with contextlib.suppress(*TRANSIENT):
                await self._ask()
