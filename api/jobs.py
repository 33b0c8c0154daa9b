"""GET /v1/jobs/{id}/events: any job's stream on any API process, from any event on.

Knows no kind of request.
"""

from falcon import HTTP_204
from falcon.asgi import Request, Response

from api.broker import Broker
from api.delivery import Reader
from api.errors import ApiError
from api.generation import body_of, send_events
from api.sse import EventStream
from api.stream import Frames
from workers import contract


class JobEvents:
    """A job's token log as the event stream that its own request would have got."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def on_get(self, req: Request, resp: Response, job_id: str) -> None:
        """Replay behind `Last-Event-ID` or `starting_after`, then follow; 204 if all was said."""
        after = _after(req)
        view = await self._broker.view(job_id)
        if view is None:
            raise ApiError("job_not_found", f"There is no job '{job_id}', or it has expired.")
        resp.set_header("x-job-id", job_id)
        if view.last_number is not None and after >= view.last_number:
            resp.status = HTTP_204
            return
        fingerprint = await self._fingerprint(view.job.model)
        self._follow(req, resp, view.job, Frames(view.job, fingerprint, after))

    async def _fingerprint(self, model: str) -> str:
        card = (await self._broker.directory()).card(model)
        return "" if card is None else card.fingerprint

    def _follow(self, req: Request, resp: Response, job: contract.Job, frames: Frames) -> None:
        reader = Reader(job.id)
        self._broker.open(reader, job.home)
        body_of(req).watch(reader.leave)
        self._broker.relay.ask(reader)
        events = EventStream(
            reader,
            frames,
            on_room=self._broker.relay.ask,
            on_close=lambda: self._broker.release(reader, job.home),
        )
        send_events(resp, events)


def _after(req: Request) -> int:
    param = "starting_after"
    text = req.get_param(param)
    if text is None:
        param = "Last-Event-ID"
        text = req.get_header(param)
    if not text:
        return -1
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ApiError("invalid_value", f"'{param}' must be an event number.", param)
    return int(text)
