"""GET /metrics: this server's requests and, from their heartbeats, all workers. Knows no job."""

from collections.abc import Iterable, Sequence

from falcon.asgi import Request, Response
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from api.broker import Broker
from api.directory import Directory
from api.errors import ApiError
from api.http_metrics import HttpMetrics
from api.queue_depths import Depth, QueueDepths
from workers.metric_families import families_of, text_of

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """For a Prometheus server. Where there are keys, it needs an admin's."""

    def __init__(self, broker: Broker, http: HttpMetrics) -> None:
        self._broker = broker
        self._http = http
        self._depths = QueueDepths(broker.redis, broker.call)

    async def on_get(self, req: Request, resp: Response) -> None:
        """While Redis is away `tramontane_queue_up` is 0 and the workers are not there."""
        try:
            fleet = await self._broker.directory(max_age_s=0)
            depths = await self._depths.look(card.name for card in fleet.cards)
            families = _families(fleet, depths)
        except ApiError:
            families = [_is_up(False)]
        resp.content_type = CONTENT_TYPE
        resp.data = self._http.exposition() + text_of(families)


def _is_up(answers: bool) -> Metric:
    return GaugeMetricFamily("tramontane_queue_up", "Redis answers.", float(answers))


def _families(fleet: Directory, depths: Sequence[Depth]) -> Iterable[Metric]:
    yield _is_up(True)
    workers = GaugeMetricFamily(
        "tramontane_workers", "Workers that serve a model.", labels=("model_name",)
    )
    for shown in fleet.gauges():
        workers.add_metric([shown["id"]], shown["workers"])
    yield workers
    yield from _queues(depths)
    yield from families_of(fleet.heartbeats)


def _queues(depths: Sequence[Depth]) -> Iterable[Metric]:
    labels = ("model_name", "service_class")
    jobs = GaugeMetricFamily("tramontane_queue_jobs", "Jobs that wait in the queue.", labels=labels)
    oldest = GaugeMetricFamily(
        "tramontane_queue_oldest_seconds", "How long the first of them has waited.", labels=labels
    )
    for depth in depths:
        jobs.add_metric(depth[:2], depth.num_jobs)
        oldest.add_metric(depth[:2], depth.oldest_s)
    yield jobs
    yield oldest
