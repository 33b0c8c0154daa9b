"""GET /health, /live and /ready: is the process up, and can it serve. Knows no job."""

import falcon
import msgspec
from falcon.asgi import Request, Response

from api.broker import Broker
from api.errors import RETRY_AFTER_S, ApiError


class Health:
    """Probes for people and load balancers."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def on_get(self, req: Request, resp: Response) -> None:
        """The process answers."""
        resp.content_type = falcon.MEDIA_TEXT
        resp.data = b"OK"

    on_head = on_get

    async def on_get_ready(self, req: Request, resp: Response) -> None:
        """200 if a request would be served now: Redis answers and keeps what it gets, a worker
        lives, we stay.
        """
        status, body = await self._readiness()
        if status != "ready":
            resp.status = falcon.HTTP_503
            resp.set_header("retry-after", str(RETRY_AFTER_S[status]))
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode({"status": status, **body})

    on_head_ready = on_get_ready

    async def _readiness(self) -> tuple[str, dict[str, object]]:
        if self._broker.is_draining:
            return "draining", {}
        try:
            await self._broker.memory.check_policy()
            directory = await self._broker.directory(max_age_s=0)
        except ApiError as error:
            return error.code, {"message": error.message}
        status = "ready" if directory.is_ready else "no_workers"
        return status, {
            "models": directory.gauges(),
            "workers": [
                msgspec.structs.replace(beat, counts=msgspec.UNSET)  # /metrics has them
                for beat in directory.heartbeats
            ],
            "streams": self._broker.relay.num_readers,
        }
