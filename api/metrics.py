"""GET /metrics: this server's requests and, from their heartbeats, all workers. Knows no job."""

from collections.abc import Iterable

from falcon.asgi import Request, Response
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from api.broker import Broker
from api.directory import Directory
from api.errors import ApiError
from api.http_metrics import HttpMetrics
from workers.metric_families import families_of, text_of

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """For a Prometheus server. Where there are keys, it needs an admin's."""

    def __init__(self, broker: Broker, http: HttpMetrics) -> None:
        self._broker = broker
        self._http = http

    async def on_get(self, req: Request, resp: Response) -> None:
        """While Redis is away `tramontane_queue_up` is 0 and the workers are not there."""
        try:
            fleet: Directory | None = await self._broker.directory(max_age_s=0)
        except ApiError:
            fleet = None
        resp.content_type = CONTENT_TYPE
        resp.data = self._http.exposition() + text_of(_families(fleet))


def _families(fleet: Directory | None) -> Iterable[Metric]:
    yield GaugeMetricFamily("tramontane_queue_up", "Redis answers.", float(fleet is not None))
    if fleet is None:
        return
    workers = GaugeMetricFamily(
        "tramontane_workers", "Workers that serve a model.", labels=("model_name",)
    )
    for shown in fleet.gauges():
        workers.add_metric([shown["id"]], shown["workers"])
    yield workers
    yield from families_of(fleet.heartbeats)
