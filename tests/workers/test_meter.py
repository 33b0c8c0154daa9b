"""What a worker counts: by hand-made times, and as a Prometheus client reads it."""

import asyncio
import contextlib
import socket

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.workers.test_job_run import Table
from tests.workers.wire import make_job
from workers.contract import Delta, Event, Heartbeat, Started, Tokens, decode_heartbeat, encode
from workers.counts import BETWEEN_TOKENS_S, Counts, Histogram
from workers.environment import SettingError
from workers.log_events import Usage
from workers.meter import Meter
from workers.metric_families import families_of, text_of
from workers.metrics_port import metrics_port


class Job:
    """A job of 7 prompt tokens that began at second 10, after 2 s in the queue."""

    queued_s, began_s, makes_tokens = 2.0, 10.0, True

    def __init__(self, num_replayed: int = 0) -> None:
        self.last_token_s: float | None = None
        self.num_replayed = num_replayed
        self.usage = Usage(7, 3, 0)


def samples(counts):
    beat = Heartbeat(
        worker="w-1",
        model='m"1',
        running=3,
        waiting=1,
        kv_blocks_used=8,
        kv_blocks_total=32,
        num_preemptions=2,
        prefix_queries=100,
        prefix_hits=64,
        counts=counts,
    )
    beat = decode_heartbeat(encode(beat))
    families = text_string_to_metric_families(text_of(families_of([beat])).decode())
    return {
        (s.name, *(v for k, v in s.labels.items() if k not in ("model_name", "engine"))): s.value
        for family in families
        for s in family.samples
    }


def test_a_value_is_counted_under_the_first_bound_that_it_does_not_pass():
    histogram = Histogram.empty((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    histogram.observe(2.0, 3)
    assert (histogram.counts, histogram.total) == ([2, 4, 1], 18.0)


def test_times_are_taken_from_the_queue_from_the_start_and_between_tokens():
    meter, job = Meter(), Job()
    for now_s in (10.5, 10.54, 10.58):
        meter.step([(job, 2)], now_s)
    meter.made(6)
    meter.done(job, 10.5, ["stop", "length"], 10.58)
    shown = samples(meter.counts)
    assert shown["vllm:time_to_first_token_seconds_sum",] == 2.5
    assert shown["vllm:time_to_first_token_seconds_bucket", "1.0"] == 0
    assert shown["vllm:time_to_first_token_seconds_bucket", "2.5"] == 1
    assert shown["vllm:inter_token_latency_seconds_count",] == 4
    assert shown["vllm:inter_token_latency_seconds_sum",] == pytest.approx(0.16)
    assert shown["vllm:inter_token_latency_seconds_bucket", "0.05"] == 4
    assert shown["vllm:e2e_request_latency_seconds_sum",] == pytest.approx(2.58)
    assert shown["vllm:request_queue_time_seconds_sum",] == 2.0
    assert shown["vllm:request_prefill_time_seconds_sum",] == 0.5
    assert shown["vllm:request_decode_time_seconds_sum",] == pytest.approx(0.08)
    assert shown["vllm:request_inference_time_seconds_sum",] == pytest.approx(0.58)
    assert shown["vllm:request_success_total", "stop"] == 1
    assert shown["mistralrs_sequences_completed_total", "length"] == 1
    assert shown["vllm:prompt_tokens_total",] == 7
    assert shown["vllm:generation_tokens_total",] == 6
    assert shown["vllm:request_generation_tokens_bucket", "5.0"] == 1


def test_what_an_earlier_attempt_has_shown_is_not_measured_again():
    meter, job = Meter(), Job(num_replayed=3)
    meter.step([(job, 1)], 11.0)
    counts = meter.counts
    assert (counts.prompt_tokens, sum(counts.first_token.counts)) == (0, 0)
    assert sum(counts.prefill.counts) == 1


def test_who_left_is_no_error():
    meter = Meter()
    for code in ("cancelled", "engine_crashed", "context_length_exceeded"):
        meter.failed(code)
    assert meter.counts.finished == {"abort": 1, "error": 2}


def test_gauges_of_the_engine_have_both_projects_names():
    shown = samples(Counts())
    assert shown["vllm:num_requests_running",] == shown["mistralrs_sequences_running",] == 3
    assert shown["vllm:num_requests_waiting",] == 1
    assert shown["vllm:kv_cache_usage_perc",] == 0.25
    assert shown["vllm:num_preemptions_total",] == 2
    assert shown["vllm:prefix_cache_queries_total",] == 100
    assert shown["vllm:prefix_cache_hits_total",] == 64
    assert shown["mistralrs_kv_cache_blocks_total",] == 32


def test_buckets_are_those_of_vllm():
    shown = samples(Counts())
    bounds = [key[1] for key in shown if key[0] == "vllm:inter_token_latency_seconds_bucket"]
    assert [float(bound) for bound in bounds] == [*BETWEEN_TOKENS_S, float("inf")]


def test_a_worker_of_an_earlier_version_still_has_gauges():
    beat = {"worker": "w", "model": "m", "running": 1, "waiting": 0}
    beat |= {"kv_blocks_used": 0, "kv_blocks_total": 0}
    text = text_of(families_of([decode_heartbeat(msgspec.msgpack.encode(beat))]))
    assert b'vllm:num_requests_running{engine="w",model_name="m"} 1.0' in text


async def test_a_job_that_runs_is_measured(text):
    table = Table(text, make_job("j", n=2))
    table.step(c0=([5], None), c1=([6], None))
    table.step(c0=([5], None), c1=([6], "stop"))
    table.step(c0=([5], "length"))
    counts = table.runs.meter.counts
    assert counts.generation_tokens == 5
    assert counts.prompt_tokens == table.run.usage.prompt_tokens
    assert sum(counts.first_token.counts) == 1
    assert sum(counts.between_tokens.counts) == 3


async def test_a_job_that_goes_on_is_not_a_new_request(text):
    past: list[Event] = [Started(0, 4), Tokens(1, (Delta(0, (5,), "x"),))]
    table = Table(text, make_job("j"), past=past, attempt=2)
    table.step(c0=([5], None))
    assert table.runs.meter.counts.prompt_tokens == 0


async def ask(port, head):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    reply = await reader.read()
    writer.close()
    return reply


@pytest.fixture
def port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def test_a_worker_answers_a_scrape_and_nothing_else(port):
    async with metrics_port(port, lambda: b"x 1\n"):
        found = await ask(port, b"GET /metrics?a=b HTTP/1.1\r\nhost: x\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 200 OK\r\n")
        assert found.endswith(b"\r\n\r\nx 1\n")
        assert (await ask(port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
        assert (await ask(port, b"PUT /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 405 ")
        with contextlib.suppress(ConnectionResetError):
            assert await ask(port, b"x" * 100_000) == b""
    with pytest.raises(OSError, match="Connect"):
        await ask(port, b"")


async def test_a_port_that_is_taken_is_a_sentence(port):
    async with metrics_port(port, lambda: b""):
        with pytest.raises(SettingError, match=rf"port {port} of --metrics-port cannot"):
            async with metrics_port(port, lambda: b""):
                pass
