"""A span for each HTTP request, and the context that its job carries to a worker.

Names as in OpenTelemetry's HTTP conventions; no query, no header and no body.
"""

from collections.abc import Iterable

from opentelemetry.trace import Span, SpanKind, StatusCode

from api.exchange import NO_ROUTE, Exchange
from api.http_metrics import METHODS
from workers import contract
from workers.collector import Collector, context_of, trace_of

# Asked every few seconds by machines that want no trace of it.
PROBES = frozenset({"/", "/health", "/live", "/ready", "/metrics"})
_HEADERS = frozenset({b"traceparent", b"tracestate"})


class RequestSpans:
    """The server's side of a client's trace, or the beginning of one."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def begin(self, exchange: Exchange, headers: Iterable[tuple[bytes, bytes]]) -> Span | None:
        """A request came; what it sets off belongs to its span. None for a probe."""
        if exchange.path in PROBES:
            return None
        given = {k.decode(): v.decode("latin-1") for k, v in headers if k in _HEADERS}
        method = _method(exchange)
        span = self._collector.tracer.start_span(
            method,
            context=context_of(given),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": method,
                "url.path": exchange.path.encode("utf-8", "replace").decode(),
            },
        )
        exchange.trace = trace_of(span)
        return span

    def end(self, span: Span, exchange: Exchange) -> None:
        """It is over, its stream included."""
        if exchange.route != NO_ROUTE:
            span.update_name(f"{_method(exchange)} {exchange.route}")
            span.set_attribute("http.route", exchange.route)
        if exchange.status:
            span.set_attribute("http.response.status_code", exchange.status)
        for name in ("request_id", "job_id", "tenant"):
            if value := getattr(exchange, name):
                span.set_attribute(f"tramontane.{name.replace('_', '.')}", value)
        if error := _error(exchange):
            span.set_attribute("error.type", error)
            span.set_status(StatusCode.ERROR)
        span.end()

    async def close(self) -> None:
        """Send what is there."""
        await self._collector.close()


def _method(exchange: Exchange) -> str:
    return exchange.method if exchange.method in METHODS else "_OTHER"


def _error(exchange: Exchange) -> str:
    """What went wrong on the server's side; a client's mistake is no error of ours."""
    if exchange.status >= 500:
        return str(exchange.status)
    end = exchange.end
    return end.code if isinstance(end, contract.Failed) and exchange.status == 200 else ""
