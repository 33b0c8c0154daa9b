"""A span for each request, in its client's trace; and that a collector never gets in the way."""

import json
import time

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from api.exchange import Exchange
from api.request_spans import RequestSpans
from tests.otlp_receiver import Receiver
from workers.collector import Collector

TRACE, PARENT = "c" * 32, "d" * 16
GIVEN = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def start(api_redis, fake_worker, directory, start_api, wait):
    servers = []

    def start(endpoint):
        server = start_api(api_redis.url, directory, otlp_endpoint=endpoint)
        servers.append(server)
        wait(lambda: server.get("/ready").status == 200, "the worker is known")
        return server

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.kill()


def test_whole_answers_streams_and_refusals_are_spans_of_the_clients_trace(start, receiver):
    server = start(receiver.url)
    whole = server.request(
        "POST",
        "/v1/chat/completions",
        {"model": "any", "messages": [{"role": "user", "content": "echo secret words"}]},
        traceparent=GIVEN,
        x_request_id="mine",
    )
    server.request("POST", "/v1/chat/completions", b"{bad", traceparent=GIVEN)
    server.get("/v1/files/nothing?secret=1", traceparent=GIVEN)
    stream = server.chat("echo secret words", stream=True)
    assert server.stop() == 0  # what is left is sent now
    assert b"secret" not in b"".join(receiver.bodies)
    first, bad, missing = receiver.of_trace(TRACE)
    assert {span.parent_id for span in (first, bad, missing)} == {PARENT}
    assert {span.service for span in receiver.spans} == {"tramontane-api"}
    assert first.name == "POST /v1/chat/completions"
    assert first.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "url.path": "/v1/chat/completions",
        "http.response.status_code": 200,
        "tramontane.request.id": "mine",
        "tramontane.job.id": whole.headers["x-job-id"],
    }
    assert bad.attributes["http.response.status_code"] == 400
    assert missing.name == "GET /v1/files/{file_id}"
    assert not any(span.is_error for span in receiver.spans)  # a client's mistake is none of ours
    (streamed,) = (span for span in receiver.spans if span.trace_id != TRACE)
    assert streamed.parent_id == ""
    assert streamed.attributes["tramontane.job.id"] == stream.headers["x-job-id"]


def test_a_dead_collector_fails_and_slows_no_request_and_no_stop(start):
    server = start("http://127.0.0.1:1")
    began_s = time.monotonic()
    for _ in range(20):
        assert server.chat("echo one").status == 200
    assert server.stop() == 0
    assert time.monotonic() - began_s < 15  # each export tries for ten seconds
    log = server.log.read_text()
    assert "Traceback" not in log
    assert log.count("exporting spans batch") <= 1


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    collector = Collector(exporter, "api")

    def finished():
        collector._provider.force_flush()
        return exporter.get_finished_spans()

    return RequestSpans(collector), finished


def exchange(path="/v1/x", method="GET"):
    return Exchange({"method": method, "path": path})


@pytest.mark.parametrize("path", ["/", "/health", "/live", "/ready", "/metrics"])
def test_a_probe_has_no_span(spans, path):
    requests, finished = spans
    probe = exchange(path)
    assert requests.begin(probe, [(b"traceparent", GIVEN.encode())]) is None
    assert probe.trace == {}
    assert finished() == ()


def test_a_failure_of_ours_is_an_error(spans):
    requests, finished = spans
    failed = exchange()
    span = requests.begin(failed, [])
    failed.status = 503
    requests.end(span, failed)
    (found,) = finished()
    assert found.attributes["error.type"] == "503"
    assert not found.status.is_ok


def test_whatever_a_client_sends_can_be_written(spans):
    requests, finished = spans
    odd = exchange("/v1/\udcff", "BREW")
    span = requests.begin(odd, [(b"traceparent", b"\xff\x00"), (b"tracestate", b"\xff=,")])
    requests.end(span, odd)
    (found,) = finished()
    json.loads(found.to_json())
    assert found.name == "_OTHER"
    assert found.attributes["url.path"] == "/v1/?"
    assert found.parent is None
