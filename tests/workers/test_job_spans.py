"""What a trace says of a job's attempts: where its time went, in numbers and names only."""

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.workers.wire import has_tokens, make_job
from workers.collector import Collector
from workers.job_spans import JobSpans

TRACE, PARENT = "a" * 32, "b" * 16
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Spans:
    """The spans of any number of workers."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.collector = Collector(self.exporter, "w")

    def watch(self, worker):
        worker.service = worker.service._replace(spans=JobSpans(self.collector))
        worker.worker.service = worker.worker.ctx["service"] = worker.service
        return worker.start()

    @property
    def all(self):
        self.collector._provider.force_flush()
        found = self.exporter.get_finished_spans()
        return sorted(found, key=lambda s: (s.start_time, -s.end_time))

    def names(self):
        return [span.name for span in self.all]


@pytest.fixture
def spans():
    return Spans()


async def test_a_jobs_time_is_a_wait_a_prefill_and_a_generation(local_worker, wire, spans):
    worker = spans.watch(local_worker(step_s=0.002))
    await wire.enqueue(make_job(trace=HEADERS, max_tokens=5, n=2, temperature=0.5))
    await wire.finished()
    await wire.until_true(lambda: len(spans.all) == 4)
    queue, attempt, prefill, generate = spans.all
    assert spans.names() == ["queue", "text_completion m", "prefill", "generate"]
    for span in (queue, attempt):
        assert f"{span.context.trace_id:032x}" == TRACE
        assert f"{span.parent.span_id:016x}" == PARENT
    for span in (prefill, generate):
        assert span.parent.span_id == attempt.context.span_id
    assert queue.kind is SpanKind.CONSUMER
    assert queue.start_time <= queue.end_time == attempt.start_time <= prefill.start_time
    assert prefill.end_time == generate.start_time < generate.end_time == attempt.end_time
    assert dict(attempt.attributes) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "tramontane",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": False,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.seed": 1,
        "gen_ai.response.id": "j",
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ("length", "length"),
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "tramontane.job.id": "j",
        "tramontane.attempt": 1,
        "tramontane.service_class": "default",
        "tramontane.tokens.replayed": 0,
        "tramontane.outcome": "done",
    }
    assert attempt.status.status_code is StatusCode.UNSET
    assert worker.task is not None


async def test_a_second_attempt_is_in_the_same_trace_and_says_so(local_worker, wire, spans):
    first = spans.watch(local_worker("w1", step_s=0.02))
    await wire.enqueue(make_job(trace=HEADERS, max_tokens=40))
    await wire.until(has_tokens(5))
    first.worker.stop()  # twice: hand back now
    first.worker.stop()
    await wire.until_true(first.task.done)
    spans.watch(local_worker("w2"))
    await wire.finished()
    await wire.until_true(lambda: len(spans.all) == 7)
    attempts = [span for span in spans.all if span.name == "text_completion m"]
    assert [s.attributes["tramontane.attempt"] for s in attempts] == [1, 2]
    assert [s.attributes["tramontane.outcome"] for s in attempts] == ["left", "done"]
    assert {f"{s.context.trace_id:032x}" for s in spans.all} == {TRACE}
    assert {f"{s.parent.span_id:016x}" for s in attempts} == {PARENT}
    replayed = attempts[1].attributes["tramontane.tokens.replayed"]
    assert replayed == attempts[0].attributes["gen_ai.usage.output_tokens"] >= 5
    assert spans.names().count("queue") == 1
    assert all(s.status.status_code is StatusCode.UNSET for s in attempts)


async def test_what_failed_says_its_code_and_not_why(local_worker, wire, spans):
    spans.watch(local_worker(step_s=0.02))
    too_long = make_job("long", trace=HEADERS, prompts=[[5] * 5000])
    await wire.enqueue(too_long)
    await wire.finished("long")
    job = make_job(trace=HEADERS, max_tokens=400)
    await wire.enqueue(job)
    await wire.until(has_tokens(1))
    await wire.cancel(job)
    await wire.finished()
    await wire.until_true(lambda: len(spans.all) == 6)
    refused, stopped = (s for s in spans.all if s.status.status_code is StatusCode.ERROR)
    assert refused.attributes["error.type"] == "context_length_exceeded"
    assert stopped.attributes["error.type"] == "cancelled"
    assert {s.status.description for s in (refused, stopped)} == {None}
    assert stopped.attributes["gen_ai.response.finish_reasons"] == ()


async def test_a_job_without_a_trace_begins_one(local_worker, wire, spans):
    spans.watch(local_worker())
    await wire.enqueue(make_job())
    await wire.finished()
    await wire.until_true(lambda: len(spans.all) == 4)
    assert [s.name for s in spans.all if s.parent is None] == ["queue", "text_completion m"]


async def test_a_trace_that_its_client_does_not_keep_is_not_kept(local_worker, wire, spans):
    spans.watch(local_worker())
    await wire.enqueue(make_job(trace={"traceparent": f"00-{TRACE}-{PARENT}-00"}))
    await wire.enqueue(make_job("k", trace=HEADERS))
    await wire.finished("j")
    await wire.finished("k")
    await wire.until_true(lambda: len(spans.all) == 4)
    assert {s.attributes.get("tramontane.job.id", "k") for s in spans.all} == {"k"}


async def test_a_line_of_a_batch_says_of_which(local_worker, wire, spans):
    spans.watch(local_worker())
    await wire.enqueue(make_job(trace=HEADERS, batch="batch_1", line=7, service_class="batch"))
    await wire.finished()
    await wire.until_true(lambda: len(spans.all) == 4)
    attributes = spans.all[1].attributes
    assert (attributes["tramontane.batch.id"], attributes["tramontane.batch.line"]) == (
        "batch_1",
        7,
    )
    assert f"{spans.all[1].context.trace_id:032x}" == TRACE
