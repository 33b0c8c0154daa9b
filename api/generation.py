"""Runs one request's job: enqueue it, follow its log, answer as a stream or in one piece.

Knows no kind of request.
"""

import time
import uuid
from typing import TypeVar

import falcon
import msgspec
from falcon.asgi import Request, Response

from api.answer import Answer
from api.body import Body
from api.broker import Broker
from api.config import ApiConfig
from api.delivery import Reader
from api.errors import ApiError, ClientGone
from api.request_log import RequestLog
from api.schema.decode import decode_body
from api.sse import EventStream
from api.stream import Frames
from workers import contract

T = TypeVar("T", bound=msgspec.Struct)

BODY_KEY = "tramontane.body"  # where the app puts the request's Body into the ASGI scope
_encode = msgspec.json.Encoder().encode


class Generation:
    """What chat and text completions share."""

    def __init__(self, broker: Broker, config: ApiConfig, log: RequestLog | None) -> None:
        self.broker = broker
        self.config = config
        self._log = log

    async def decode(self, req: Request, decoder: msgspec.json.Decoder[T]) -> T:
        """The request's body. Raises ApiError."""
        if self.broker.is_draining:
            raise ApiError("draining", "This server is shutting down; try again.")
        data = await body_of(req).read(self.config.max_body_bytes, self.config.read_timeout_s)
        if self._log is not None:
            self._log.put("request", req.context.request_id, req.path, body=data)
        return decode_body(decoder, data)

    async def card(self, model: str) -> contract.ModelCard:
        """The model that serves a request. Raises ApiError."""
        directory = await self.broker.directory()
        return directory.resolve(model, strict=self.config.strict_model_names)

    async def run(
        self, req: Request, resp: Response, job: contract.Job, card: contract.ModelCard
    ) -> None:
        """Enqueue the job and answer with what its log says. Raises ApiError, or ClientGone."""
        reader = Reader(job.id, wakes_at_end=not job.stream)
        self.broker.open(reader, job.home)
        is_streaming = False
        try:
            body_of(req).watch(reader.leave)
            resp.set_header("x-job-id", job.id)
            await self.broker.enqueue(job, card.queue)
            if job.stream:
                await reader.wait_for(self.config.first_event_s)
                self._check_first(reader)
                self._stream(req, resp, reader, job, card)
                is_streaming = True
            else:
                await self._whole(resp, reader, job, card)
        finally:
            if not is_streaming:
                self._close(reader, job, card.queue)

    def _check_first(self, reader: Reader) -> None:
        if reader.is_gone:
            raise ClientGone
        if isinstance(reader.first, contract.Failed):
            raise ApiError.of(reader.first)

    def _stream(
        self,
        req: Request,
        resp: Response,
        reader: Reader,
        job: contract.Job,
        card: contract.ModelCard,
    ) -> None:
        answer = None if self._log is None else Answer(job, card.fingerprint)

        def close() -> None:
            self._close(reader, job, "" if reader.is_drained else card.queue)
            if answer is not None:
                self._log_stream(req, job, answer)

        send_events(
            resp,
            EventStream(
                reader,
                Frames(job, card.fingerprint),
                on_room=self.broker.relay.ask,
                on_events=None if answer is None else answer.add,
                on_close=close,
            ),
        )

    async def _whole(
        self, resp: Response, reader: Reader, job: contract.Job, card: contract.ModelCard
    ) -> None:
        answer = Answer(job, card.fingerprint)
        while not reader.is_over or reader.first is not None:
            await reader.wait()
            if reader.is_gone:
                raise ClientGone
            if reader.is_drained and not reader.is_over:
                raise ApiError("draining", "This server is shutting down; try again.")
            answer.add(reader.take())
            if reader.is_behind:
                self.broker.relay.ask(reader)
        answer.check()
        resp.content_type = falcon.MEDIA_JSON
        resp.data = _encode(answer.response())

    def _close(self, reader: Reader, job: contract.Job, queue: str) -> None:
        """Let go of the log; a job that nobody waits for is cancelled, unless `queue` is empty."""
        self.broker.release(reader, job.home)
        if queue and not reader.is_over:
            self.broker.cancel_soon(job, queue)

    def _log_stream(self, req: Request, job: contract.Job, answer: Answer) -> None:
        assert self._log is not None
        failed = answer.failed
        body = answer.response() if failed is None else ApiError.of(failed).response()
        self._log.put(
            "response",
            req.context.request_id,
            req.path,
            job_id=job.id,
            status=200,
            duration_s=round(time.monotonic() - req.context.started_s, 6),
            body=body,
        )


def send_events(resp: Response, events: EventStream) -> None:
    """Answer with an event stream that no proxy should hold back or change."""
    resp.content_type = "text/event-stream; charset=utf-8"
    resp.set_header("cache-control", "no-cache, no-transform")
    resp.set_header("x-accel-buffering", "no")
    resp.stream = events


def body_of(req: Request) -> Body:
    """The request's body, which the app put into the scope."""
    body: Body = req.scope[BODY_KEY]
    return body


def new_id(prefix: str) -> str:
    """A job id that is also the response's id, e.g. `chatcmpl-…`."""
    return f"{prefix}-{uuid.uuid4().hex}"
