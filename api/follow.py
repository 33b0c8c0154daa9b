"""One more reader of a job that has a request of its own, or had one. Knows no kind of request."""

from falcon.asgi import Request, Response

from api.broker import Broker
from api.delivery import Reader
from api.generation import body_of, send_events
from api.shape import Renderer
from api.sse import EventStream
from workers import contract


def follow(
    broker: Broker, req: Request, resp: Response, job: contract.Job, frames: Renderer
) -> None:
    """Answer with the job's stream; its reader leaving means nothing to the job."""
    reader = Reader(job.id)
    broker.open(reader, job.home)
    body_of(req).watch(reader.leave)
    broker.relay.ask(reader)
    events = EventStream(
        reader,
        frames,
        on_room=broker.relay.ask,
        on_close=lambda: broker.release(reader, job.home),
    )
    send_events(resp, events)
