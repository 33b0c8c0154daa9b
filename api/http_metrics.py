"""What the API counts of its requests, for Prometheus, under mistral.rs' names. Knows no job.

A machine's API processes each count in a file of their own, and whichever is asked adds them up:
prometheus_client's multiprocess mode, in the directory that `shared_counts.py` makes.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from api.exchange import Exchange
from api.shared_counts import directory
from workers.counts import FIRST_TOKEN_S

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics:
    """One process's counts, and the sum of those of all processes of this server."""

    def __init__(self) -> None:
        self._own = own = CollectorRegistry()
        labels = ("method", "path")
        self._requests = Counter(
            "http_requests", "Requests that are over.", (*labels, "status"), registry=own
        )
        self._duration = Histogram(
            "http_request_duration_seconds",
            "From a request's headers to the end of its answer, streams included.",
            labels,
            registry=own,
            buckets=FIRST_TOKEN_S,
        )
        self._in_flight = Gauge(
            "http_requests_in_flight",
            "Requests that are being answered.",
            registry=own,
            multiprocess_mode="livesum",
        )
        self._in_flight.set(0)  # the file of an earlier process with this id may be there

    def begin(self) -> None:
        """A request came."""
        self._in_flight.inc()

    def end(self, exchange: Exchange) -> None:
        """It is over."""
        self._in_flight.dec()
        method = exchange.method if exchange.method in METHODS else "other"
        self._requests.labels(method, exchange.route, str(exchange.status)).inc()
        self._duration.labels(method, exchange.route).observe(exchange.duration_s)

    def exposition(self) -> bytes:
        """The text that a Prometheus server reads, format 0.0.4."""
        path = directory()
        if not path:
            return generate_latest(self._own)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=path)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
