"""What is known of one HTTP request when it is over, for metrics and the access log: no content.

Knows no format and no metric.
"""

import time
from typing import Any

from falcon.asgi import Request, Response

from api.seat import Seat
from workers import contract

EXCHANGE_KEY = "tramontane.exchange"  # where the app puts it into the ASGI scope

NO_ROUTE = "none"


class Exchange:
    """Filled in while the request is served; a stream ends long after its headers left."""

    __slots__ = (
        "began_s",
        "job_id",
        "method",
        "path",
        "request_id",
        "route",
        "seat",
        "status",
        "tenant",
        "trace",
    )

    def __init__(self, scope: dict[str, Any]) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.route = NO_ROUTE  # with the names of its parameters, so that there are few
        self.status = 0  # 0: the connection went before an answer
        self.request_id = self.tenant = self.job_id = ""
        self.seat: Seat | None = None
        self.trace: dict[str, str] = {}  # W3C headers: the span of this request, if it has one
        self.began_s = time.monotonic()

    def note(self, req: Request, resp: Response) -> None:
        """The answer's headers are about to leave."""
        context = req.context
        self.route = req.uri_template or NO_ROUTE
        self.status = resp.status_code
        self.request_id = context.get("request_id") or ""
        self.tenant = tenant.name if (tenant := context.get("tenant")) else ""
        self.job_id = resp.get_header("x-job-id") or ""
        self.seat = context.get("seat")

    @property
    def duration_s(self) -> float:
        """Since the request came."""
        return time.monotonic() - self.began_s

    @property
    def end(self) -> contract.Done | contract.Failed | None:
        """The last word of the job that was followed, if it was heard."""
        return self.seat.reader.end if self.seat is not None else None


def exchange_of(req: Request) -> Exchange:
    """The one that the app put into the scope."""
    exchange: Exchange = req.scope[EXCHANGE_KEY]
    return exchange
