"""The spans of an attempt at a job: the wait in the queue, the prefill, the generation.

Names as in OpenTelemetry's GenAI conventions; never a word of prompt or answer. All are written
when they are over, so a worker that is killed leaves none of what it was at.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.util.types import AttributeValue

from workers.collector import Collector, context_of, nanoseconds
from workers.contract import Job, Usage

PROVIDER = "tramontane"
_OPERATIONS = {
    "completion": "text_completion",
    "embedding": "embeddings",
}  # the others are called as we call them
_SAMPLING = (
    *("max_tokens", "temperature", "top_p", "top_k"),
    *("presence_penalty", "frequency_penalty", "seed"),
)


class Attempted(Protocol):
    """What is asked of the lease."""

    job_id: str
    attempt: int
    enqueued_s: float  # of the wall clock, as the next
    taken_s: float
    trace: dict[str, str]


class Attempt(Protocol):
    """What is asked of a job that was run. Times are of the monotonic clock."""

    job: Job
    began_s: float
    first_token_s: float | None
    num_replayed: int

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        ...

    @property
    def outcome(self) -> str:
        """How it ended: `done`, an error's code, or why another attempt goes on."""
        ...


class JobSpans:
    """Makes the spans of one worker's attempts, children of the request that made the job."""

    def __init__(self, collector: Collector) -> None:
        self._tracer = collector.tracer

    def taken(self, claim: Attempted) -> None:
        """A worker has the job. Later attempts waited for a lease to end, not in the queue."""
        if claim.attempt > 1:
            return
        begin_s = min(claim.enqueued_s, claim.taken_s)  # hosts' clocks need not agree
        span = self._start("queue", context_of(claim.trace), begin_s, SpanKind.CONSUMER)
        span.set_attributes(_standing(claim))
        span.end(nanoseconds(claim.taken_s))

    def refused(self, claim: Attempted, code: str) -> None:
        """The job never ran."""
        span = self._start("refuse", context_of(claim.trace), claim.taken_s)
        span.set_attributes(_standing(claim))
        _fail(span, code)
        span.end()

    def ran(self, claim: Attempted, run: Attempt, finishes: Sequence[str]) -> None:
        """An attempt is over, whatever came of it; `finishes` are those of its answers."""
        job, now_s = run.job, time.time()
        offset_s = now_s - time.monotonic()
        name = f"{_operation(job)} {job.model}"
        span = self._start(name, context_of(claim.trace), claim.taken_s)
        span.set_attributes({**_standing(claim), **dict(_asked(job)), **_answered(run)})
        span.set_attribute("gen_ai.response.finish_reasons", finishes)
        if run.outcome not in ("done", "left"):
            _fail(span, run.outcome)
        within = set_span_in_context(span, Context())
        began_s, first_s = run.began_s + offset_s, (run.first_token_s or 0) + offset_s
        if run.first_token_s is None:
            self._part("prefill", within, began_s, now_s)
        else:
            self._part("prefill", within, began_s, first_s)
            self._part("generate", within, first_s, now_s)
        span.end(nanoseconds(now_s))

    def _part(self, name: str, within: Context, begin_s: float, end_s: float) -> None:
        self._start(name, within, begin_s).end(nanoseconds(end_s))

    def _start(
        self, name: str, within: Context, begin_s: float, kind: SpanKind = SpanKind.INTERNAL
    ) -> Span:
        return self._tracer.start_span(
            name, context=within, kind=kind, start_time=nanoseconds(begin_s)
        )


def _fail(span: Span, code: str) -> None:
    span.set_attribute("error.type", code)
    span.set_status(StatusCode.ERROR)


def _operation(job: Job) -> str:
    return _OPERATIONS.get(job.kind, job.kind)


def _standing(claim: Attempted) -> dict[str, AttributeValue]:
    return {"tramontane.job.id": claim.job_id, "tramontane.attempt": claim.attempt}


def _asked(job: Job) -> Iterator[tuple[str, AttributeValue]]:
    yield "gen_ai.operation.name", _operation(job)
    yield "gen_ai.provider.name", PROVIDER
    yield "gen_ai.request.model", job.model
    yield "gen_ai.request.stream", job.stream
    if job.n != 1:
        yield "gen_ai.request.choice.count", job.n
    for name in _SAMPLING:
        if (value := getattr(job.sampling, name)) is not None:
            yield f"gen_ai.request.{name}", value
    yield "tramontane.service_class", job.service_class
    if job.batch:
        yield "tramontane.batch.id", job.batch
        yield "tramontane.batch.line", job.line


def _answered(run: Attempt) -> dict[str, AttributeValue]:
    usage = run.usage
    return {
        "gen_ai.response.id": run.job.id,
        "gen_ai.response.model": run.job.model,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "tramontane.tokens.replayed": run.num_replayed,
        "tramontane.outcome": run.outcome,
    }
