"""Whether traces are wanted, where they go, and that a collector that is away harms nobody."""

import logging
import sys
import threading
import time

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.otlp_receiver import Receiver
from workers import collector as collector_module
from workers.collector import Collector, context_of, trace_of
from workers.environment import SettingError
from workers.tracing import open_collector, traces_url

PARENT = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=x"}


@pytest.mark.parametrize(
    ("endpoint", "environ", "expected"),
    [
        ("", {}, ""),
        ("http://c:4318", {}, "http://c:4318/v1/traces"),
        ("http://c:4318/base/", {}, "http://c:4318/base/v1/traces"),
        ("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x"}, "http://t/x"),
        ("http://c", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x"}, "http://t/x"),
        ("http://c", {"OTEL_SDK_DISABLED": "true"}, ""),
        ("http://c", {"OTEL_TRACES_EXPORTER": "none"}, ""),
        ("", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ""),
        ("http://c", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "http://c/v1/traces"),
    ],
)
def test_opentelemetrys_own_variables_say_where_traces_go(endpoint, environ, expected):
    assert traces_url(endpoint, environ) == expected


def test_by_default_nothing_is_opened():
    assert open_collector("", "s", {}) is None


@pytest.mark.parametrize(
    ("endpoint", "environ", "message"),
    [
        ("c:4318", {}, "http:// or https:// URL"),
        ("http://c:4317", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf only"),
    ],
)
def test_what_cannot_work_stops_the_start(endpoint, environ, message):
    with pytest.raises(SettingError, match=message):
        open_collector(endpoint, "s", environ)


def test_what_the_sdk_refuses_is_said_as_a_setting(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100000")  # more than its queue holds
    with pytest.raises(SettingError, match=r"OTEL_… variable .*max_export_batch_size"):
        open_collector("http://127.0.0.1:1", "s", {})


def test_a_missing_sdk_is_one_sentence_that_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "workers.collector", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingError, match=r"pip install 'tramontane\[otel\]'"):
        open_collector("http://127.0.0.1:1", "s", {})


def test_context_goes_through_headers_and_comes_back():
    collector = Collector(InMemorySpanExporter(), "s")
    span = collector.tracer.start_span("x", context=context_of(PARENT))
    trace = trace_of(span)
    assert trace["traceparent"].split("-")[1] == "a" * 32
    assert trace["traceparent"].split("-")[2] not in ("b" * 16, "0" * 16)
    assert trace["tracestate"] == "vendor=x"


@pytest.mark.parametrize("given", ["", "00-xyz-1-01", f"00-{'0' * 32}-{'0' * 16}-00", "\x00"])
def test_a_context_that_is_none_begins_a_trace(given):
    collector = Collector(InMemorySpanExporter(), "s")
    span = collector.tracer.start_span("x", context=context_of({"traceparent": given}))
    assert isinstance(span, ReadableSpan)
    assert span.parent is None
    assert span.get_span_context().is_valid


def opened(url, service):
    collector = open_collector(url, service, {})
    assert collector is not None
    return collector


async def test_the_last_spans_are_sent_when_a_process_stops():
    with Receiver() as receiver:
        collector = opened(receiver.url, "the-service")
        collector.tracer.start_span("x").end()
        await collector.close()
        assert [(span.name, span.service) for span in receiver.spans] == [("x", "the-service")]


async def test_the_users_name_of_the_service_goes_before_ours(monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "theirs")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    with Receiver() as receiver:
        collector = opened(receiver.url, "ours")
        collector.tracer.start_span("x").end()
        await collector.close()
        assert [span.service for span in receiver.spans] == ["theirs"]


async def test_a_dead_collector_costs_a_line_in_the_log_and_no_wait(monkeypatch, caplog):
    monkeypatch.setattr(collector_module, "FLUSH_S", 0.2)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    collector = opened("http://127.0.0.1:1", "s")
    logger = logging.getLogger(collector_module._LOUD[0])
    try:
        with caplog.at_level(logging.DEBUG):
            began_s = time.monotonic()
            for _ in range(5000):  # more than its queue has room for
                collector.tracer.start_span("x").end()
            made_s = time.monotonic() - began_s
            await collector.close()
        assert made_s < 5  # 1 ms each on any machine, where one export tries for 10 s
        lines = [r for r in caplog.records if r.name == logger.name]
        assert len(lines) <= 1
    finally:
        for thread in threading.enumerate():
            if thread.name == "last spans":
                thread.join()
        for name in collector_module._LOUD:
            logging.getLogger(name).filters.clear()
