"""Workers that do nothing but change their weights: the real pulse and requantizer, no engine."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

from engine.errors import LoadError
from engine.messages import EngineStats
from engine.quant.names import ISQ_NAMES
from workers import contract
from workers.counts import Counts
from workers.engine_process import EngineProcess
from workers.heartbeat import Pulse
from workers.redis_link import Scripts, close, connect
from workers.requantize import Place, Requantizer
from workers.subscription import Subscription

MODEL = "m"
QUEUE = contract.queue_key(MODEL)


class NoEngine:
    """In the place of EngineProcess: changes its type when it may, and notes who is at it."""

    busy: list[str]

    def __init__(self, name: str, busy: list[str], isq: str) -> None:
        self.name = name
        self.isq = isq
        self.error = ""
        self.go = asyncio.Event()
        self.go.set()
        self.loads: list[str] = []
        self.restarts: list[str] = []
        self.busy = busy
        self.most_busy = 0

    async def ready(self) -> None:
        return

    async def requantize(self, isq: str) -> None:
        self.busy.append(self.name)
        self.most_busy = max(self.most_busy, len(self.busy))
        try:
            await self.go.wait()
            await asyncio.sleep(0.01)
        finally:
            self.busy.remove(self.name)
        self.loads.append(isq)
        if self.error:
            raise LoadError(self.error)
        self.isq = isq

    def restart_with(self, isq: str) -> None:
        self.restarts.append(isq)
        self.isq = isq


class WeightsWorker:
    """One of a fleet. `die` leaves everything as kill -9 does."""

    def __init__(
        self,
        url: str,
        name: str,
        busy: list[str],
        *,
        own_isq: str = "",
        isq: str | None = None,
        change: str = "",
        turn_s: float = 1.0,
        heartbeat_s: float = 0.1,
    ) -> None:
        self.name = name
        self.client = connect(url, QUEUE)
        scripts = Scripts(self.client)
        card = contract.ModelCard(
            name=MODEL,
            queue=QUEUE,
            context_length=1,
            vocab_size=1,
            created_s=0,
            isq_types=ISQ_NAMES,
        )
        self.pulse = Pulse(scripts, name, card, EngineStats, counts=Counts(), period_s=heartbeat_s)
        self.pulse.isq = own_isq if isq is None else isq
        self.pulse.isq_change = change
        self.engine = NoEngine(name, busy, self.pulse.isq)
        self.place = Place(name, MODEL, own_isq)
        engine = cast(EngineProcess, self.engine)
        self.requantizer = Requantizer(scripts, self.place, engine, self.pulse, turn_s=turn_s)
        channel = contract.isq_channel(QUEUE)
        self.subscription = Subscription(
            url, {channel: lambda _: self.pulse.nudge()}, self.pulse.nudge
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.pulse.beat()
        loops = (self.pulse, self.requantizer, self.subscription)
        self.tasks = [asyncio.create_task(loop.run()) for loop in loops]

    async def die(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def end(self) -> None:
        await self.die()
        await close(self.client)


class Fleet:
    """Workers of one model, and what re_isq asks of them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.busy: list[str] = []
        self.workers: list[WeightsWorker] = []

    async def start(self, *names: str, **options: Any) -> list[WeightsWorker]:
        started = [WeightsWorker(self.url, name, self.busy, **options) for name in names]
        self.workers += started
        for worker in started:
            await worker.start()
        return started

    @property
    def types(self) -> list[str]:
        return [worker.engine.isq for worker in self.workers]

    async def end(self) -> None:
        for worker in self.workers:
            await worker.end()


async def until(condition: Callable[[], Any], what: str = "it") -> None:
    """Wait until a condition holds."""
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s, f"{what} did not happen"
        await asyncio.sleep(0.005)
