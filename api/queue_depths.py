"""How many jobs wait in each model's queue, and since when, by class. Knows no metric."""

from collections.abc import Iterable
from typing import NamedTuple, get_args

from redis.asyncio import Redis

from api.call import Call
from workers import contract

CLASSES: tuple[contract.ServiceClass, ...] = get_args(contract.ServiceClass)


class Depth(NamedTuple):
    """What waits of a class. `oldest_s` is the longest wait so far, 0 where nobody waits."""

    model: str
    service_class: contract.ServiceClass
    num_jobs: int
    oldest_s: float


class QueueDepths:
    """Looks at the queues of the models that are served, and of those that were and have jobs."""

    def __init__(self, redis: Redis, call: Call) -> None:
        self._redis = redis
        self._call = call
        self._models: set[str] = set()

    async def look(self, served: Iterable[str]) -> list[Depth]:
        """At this moment, by model and class. Raises ApiError."""
        served = set(served)
        self._models |= served
        depths = await self._call(lambda: self._read(sorted(self._models)))
        waiting = {depth.model for depth in depths if depth.num_jobs}
        self._models &= served | waiting  # a model that is gone is shown until its queue is empty
        return depths

    async def _read(self, models: list[str]) -> list[Depth]:
        places = [(model, kind) for model in models for kind in CLASSES]
        async with self._redis.pipeline(transaction=False) as pipe:
            for model, service_class in places:
                key = contract.class_key(contract.queue_key(model), service_class)
                pipe.zcard(key)
                pipe.zrange(key, 0, 0, withscores=True)
            pipe.time()  # the clock that a job's coming was noted by
            *replies, (seconds, microseconds) = await pipe.execute()
        now_ms = seconds * 1000 + microseconds / 1000
        counts = zip(places, replies[::2], replies[1::2], strict=True)
        return [
            Depth(*place, num_jobs, _age_s(oldest, now_ms)) for place, num_jobs, oldest in counts
        ]


def _age_s(oldest: list[tuple[bytes, float]], now_ms: float) -> float:
    return max(now_ms - oldest[0][1], 0.0) / 1000 if oldest else 0.0
