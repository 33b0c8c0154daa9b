"""What a worker has counted and measured since its start, as it crosses the wire. Knows no job.

Histograms have vLLM's bounds (vllm/v1/metrics/loggers.py), so that its dashboards fit.
"""

from bisect import bisect_left
from typing import Literal, Self

import msgspec

FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
BETWEEN_TOKENS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
TOKENS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))

FinishedReason = Literal["stop", "length", "tool_calls", "abort", "error"]


class Histogram(msgspec.Struct, array_like=True):
    """How many values were at most each of `bounds`, and one more count for those above all."""

    bounds: tuple[float, ...]
    counts: list[int]
    total: float = 0.0

    @classmethod
    def empty(cls, bounds: tuple[float, ...]) -> Self:
        """One without values."""
        return cls(bounds, [0] * (len(bounds) + 1))

    def observe(self, value: float, count: int = 1) -> None:
        """Count a value, `count` times."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count


def _times(bounds: tuple[float, ...]) -> Histogram:
    return msgspec.field(default_factory=lambda: Histogram.empty(bounds))


class Counts(msgspec.Struct, kw_only=True):
    """All of it. Times in seconds; README.md of `api` says what each is the time between."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: dict[str, int] = {}
    first_token: Histogram = _times(FIRST_TOKEN_S)
    between_tokens: Histogram = _times(BETWEEN_TOKENS_S)
    request: Histogram = _times(REQUEST_S)
    queue: Histogram = _times(REQUEST_S)
    prefill: Histogram = _times(REQUEST_S)
    decode: Histogram = _times(REQUEST_S)
    inference: Histogram = _times(REQUEST_S)
    prompt_sizes: Histogram = _times(TOKENS)
    answer_sizes: Histogram = _times(TOKENS)
