"""Counts and measures what a worker does, as it happens. Knows no clock, no Redis and no format.

A step costs it one look-up for each job that got a token: most jobs got their last token at the
same moment, so a step's waits between tokens are few different values.
"""

from collections.abc import Iterable
from typing import Protocol

from workers.counts import Counts, FinishedReason
from workers.log_events import Usage


class Measured(Protocol):
    """What is looked at of a job that runs."""

    queued_s: float  # before this attempt began
    began_s: float
    last_token_s: float | None
    num_replayed: int
    makes_tokens: bool  # one after the other

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        ...


class Meter:
    """One worker's `counts`. All times are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.counts = Counts()

    def step(self, jobs: Iterable[tuple[Measured, int]], now_s: float) -> None:
        """A step ended; each of `jobs` comes with how many of its choices moved on."""
        gaps: dict[float, int] = {}
        for job, num_outputs in jobs:
            last_s, job.last_token_s = job.last_token_s, now_s
            if last_s is None:
                self._begin(job, now_s)
            elif job.makes_tokens:
                gap_s = now_s - last_s
                gaps[gap_s] = gaps.get(gap_s, 0) + num_outputs
        for gap_s, count in gaps.items():
            self.counts.between_tokens.observe(gap_s, count)

    def _begin(self, job: Measured, now_s: float) -> None:
        self.counts.prefill.observe(now_s - job.began_s)
        if job.num_replayed:  # the client has had its first token from an earlier attempt
            return
        self.counts.prompt_tokens += job.usage.prompt_tokens
        self.counts.queue.observe(job.queued_s)
        self.counts.first_token.observe(job.queued_s + now_s - job.began_s)

    def made(self, num_tokens: int) -> None:
        """So many tokens came out of a step."""
        self.counts.generation_tokens += num_tokens

    def done(
        self, job: Measured, first_token_s: float | None, finishes: Iterable[str], now_s: float
    ) -> None:
        """The job has its answer; each of its choices ended with a finish reason."""
        counts, ran_s = self.counts, now_s - job.began_s
        counts.request.observe(job.queued_s + ran_s)
        counts.inference.observe(ran_s)
        counts.decode.observe(now_s - (first_token_s or now_s))
        counts.prompt_sizes.observe(job.usage.prompt_tokens)
        counts.answer_sizes.observe(job.usage.completion_tokens)
        for finish in finishes:
            self._finish(finish)

    def failed(self, code: str) -> None:
        """A job ended without its answer."""
        reason: FinishedReason = "abort" if code == "cancelled" else "error"
        self._finish(reason)

    def _finish(self, reason: str) -> None:
        self.counts.finished[reason] = self.counts.finished.get(reason, 0) + 1
