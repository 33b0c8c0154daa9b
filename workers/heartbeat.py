"""A worker's sign of life: its gauges and the card of its model, written to Redis. Knows no job."""

import asyncio
import contextlib
import math
from collections.abc import Callable

from engine.messages import EngineStats
from workers.contract import (
    ISQ_TTL_S,
    MODELS_KEY,
    MODELS_SEEN_KEY,
    WORKERS_KEY,
    Counts,
    Heartbeat,
    ModelCard,
    encode,
    isq_key,
    worker_key,
)
from workers.redis_link import TRANSIENT, Scripts

MIN_PAUSE_S = 0.05  # between two beats, however many jobs start and end
MISSED_BEATS = 5  # after so many a worker counts as gone


class Pulse:
    """Beats every `period_s`, and soon after each `nudge`. `stats` gives the engine's gauges.

    `isq` is the type of the engine's weights and `isq_change` the change that made it; `on_wanted`
    is told with every beat which change the model's workers are to have. `counts` go on under its
    hands.
    """

    def __init__(
        self,
        scripts: Scripts,
        worker: str,
        card: ModelCard,
        stats: Callable[[], EngineStats],
        *,
        counts: Counts,
        period_s: float,
    ) -> None:
        self.is_draining = False
        self.isq = ""
        self.isq_change = ""
        self.on_wanted: Callable[[str], None] = lambda change: None
        self._scripts = scripts
        self._worker = worker
        self._model = card.name
        self._card = encode(card)
        self._stats = stats
        self._counts = counts
        self._period_s = period_s
        self._nudge = asyncio.Event()

    def nudge(self) -> None:
        """Something changed: beat soon."""
        self._nudge.set()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            with contextlib.suppress(*TRANSIENT):  # the next beat tells the same
                await self.beat()
            await asyncio.sleep(MIN_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._period_s):
                    await self._nudge.wait()
            self._nudge.clear()

    async def beat(self) -> None:
        """Write once. Raises TRANSIENT."""
        ttl_ms = math.ceil(MISSED_BEATS * (self._period_s + MIN_PAUSE_S) * 1000)
        own, wanted = worker_key(self._worker), isq_key(self._model)
        gauges = encode(self.gauges())
        change: bytes = await self._scripts.run(
            "heartbeat",
            keys=[own, WORKERS_KEY, MODELS_KEY, MODELS_SEEN_KEY, wanted],
            args=[self._worker, gauges, ttl_ms, self._model, self._card, ISQ_TTL_S * 1000],
        )
        self.on_wanted(change.decode())

    def gauges(self) -> Heartbeat:
        """What a beat says now."""
        stats = self._stats()
        return Heartbeat(
            worker=self._worker,
            model=self._model,
            running=stats.running,
            waiting=stats.waiting,
            kv_blocks_used=stats.kv_blocks_used,
            kv_blocks_total=stats.kv_blocks_total,
            num_preemptions=stats.num_preemptions,
            is_draining=self.is_draining,
            isq=self.isq,
            isq_change=self.isq_change,
            prefix_queries=stats.prefix_queries,
            prefix_hits=stats.prefix_hits,
            counts=self._counts,
        )
