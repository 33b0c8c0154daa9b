"""OpenTelemetry's SDK as we use it: spans out in batches, trace context in and out of headers.

Knows none of our spans. A thread sends them: nobody waits for a collector, and one that is away
costs spans and a line in the log now and then, nothing else.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from typing import Self

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

FLUSH_S = 1.0  # how long a process that stops waits for its last spans to be taken
QUIET_S = 60.0
_LOUD = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)
_propagator = TraceContextTextMapPropagator()


class Collector:
    """Takes the spans of one process. Sampling and batching are as OTEL_… variables have them."""

    def __init__(self, exporter: SpanExporter, service: str) -> None:
        own = Resource.create({"service.name": service})
        resource = own.merge(OTELResourceDetector().detect())  # the user's names go before ours
        self._exporter = exporter
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self._provider.get_tracer("tramontane")

    @classmethod
    def at(cls, url: str, service: str) -> Self:
        """The one that listens at `url`, by OTLP over HTTP."""
        for name in _LOUD:
            logging.getLogger(name).addFilter(_Seldom())
        return cls(OTLPSpanExporter(endpoint=url), service)

    async def close(self) -> None:
        """Send what is there; it is lost if that takes longer than FLUSH_S."""
        thread = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, FLUSH_S)
        if thread.is_alive():
            self._exporter.shutdown()  # it tries no longer


class _Seldom(logging.Filter):
    """Lets one line through in a while: a collector that is away is no news after that."""

    def __init__(self) -> None:
        super().__init__()
        self._next_s = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now_s = time.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + QUIET_S
        return True


def context_of(trace: Mapping[str, str]) -> Context:
    """The context that W3C headers name; an empty one where they name none."""
    return _propagator.extract(trace, context=Context())


def trace_of(span: Span) -> dict[str, str]:
    """The W3C headers (`traceparent`, perhaps `tracestate`) that make others children of `span`."""
    trace: dict[str, str] = {}
    _propagator.inject(trace, set_span_in_context(span, Context()))
    return trace


def nanoseconds(wall_s: float) -> int:
    """A time as OpenTelemetry counts it."""
    return int(wall_s * 1e9)
