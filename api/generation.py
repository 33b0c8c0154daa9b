"""Runs one request's job: enqueue it, follow its log, answer as a stream, in one piece, or later.

Knows no kind of request.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Collection

import falcon
import msgspec
from falcon.asgi import Request, Response

from api.body import Body
from api.broker import Broker
from api.config import ApiConfig
from api.directory import GENERATES
from api.errors import ApiError, ClientGone
from api.idempotency import KnownKeys, Once, tell_earlier
from api.job_store import JobStore
from api.params import after_of
from api.request_log import RequestLog
from api.seat import Seat
from api.shape import Whole, answer_of, frames_of
from api.sse import EventStream
from api.submission import Submission
from api.wishes import Wishes, read_wishes
from workers import contract

BODY_KEY = "tramontane.body"  # where the app puts the request's Body into the ASGI scope
_encode = msgspec.json.Encoder().encode


class Generation:
    """What chat, text completions and responses share."""

    def __init__(self, broker: Broker, config: ApiConfig, log: RequestLog | None) -> None:
        self.broker = broker
        self.config = config
        self.jobs = JobStore(broker)
        self.keys = KnownKeys(broker.redis, broker.call, config.idempotency_ttl_s)
        self._submission = Submission(broker, config)
        self._log = log

    async def read(self, req: Request) -> bytes:
        """The request's body; its headers' wishes go into the context. Raises ApiError."""
        if self.broker.is_draining:
            raise _draining()
        wishes = read_wishes(req.get_header)
        data = await body_of(req).read(self.config.max_body_bytes, self.config.read_timeout_s)
        if self._log is not None:
            self._log.put("request", req.context.request_id, req.path, body=data)
        req.context.wishes = wishes.with_body(req.path, req.context.tenant.name, data)
        return data

    def once(self, req: Request) -> Once:
        """What a request that was read is remembered by."""
        wishes: Wishes = req.context.wishes
        return self.keys.once(req.context.tenant.name, wishes.idempotency_key, wishes.digest)

    async def earlier(self, req: Request, resp: Response) -> contract.Job | None:
        """The job that the same Idempotency-Key and body began before; the client is told.

        It is asked for before anything that may refuse a new job. Raises ApiError.
        """
        job_id = await self.keys.find(self.once(req))
        view = await self.broker.view(job_id) if job_id else None
        if view is None:
            return None
        tell_earlier(resp)
        resp.set_header("x-job-id", view.job.id)
        return view.job

    async def card(
        self, model: str, tasks: Collection[contract.Task] = GENERATES
    ) -> contract.ModelCard:
        """The model that serves a request for one of these tasks. Raises ApiError."""
        directory = await self.broker.directory()
        return directory.resolve(model, strict=self.config.strict_model_names, tasks=tasks)

    async def submit(
        self,
        req: Request,
        resp: Response,
        job: contract.Job,
        card: contract.ModelCard,
        *,
        tier: str | None = None,
    ) -> contract.Job:
        """Enqueue the job on the request's terms; returns the job that answers it. Raises ApiError.

        That is another one where the same Idempotency-Key began it before. `tier` is the body's
        `service_tier`.
        """
        return await self._submission.submit(req, resp, job, card.queue, tier)

    async def run(
        self,
        req: Request,
        resp: Response,
        job: contract.Job,
        card: contract.ModelCard,
        *,
        tier: str | None = None,
    ) -> None:
        """Enqueue the job and answer with what its log says, or at once if the client prefers that.

        Raises ApiError, or ClientGone.
        """
        if _is_promised(req):
            await self._promise(resp, await self.submit(req, resp, job, card, tier=tier))
            return
        with self._seat(req, job, card.queue) as seat:
            seat.settle(await self.submit(req, resp, job, card, tier=tier))
            await self._answer(req, resp, seat, card.fingerprint)

    async def replay(self, req: Request, resp: Response, job: contract.Job) -> None:
        """Answer as `run` does with an `earlier` job, whoever serves its model now.

        Raises ApiError, or ClientGone.
        """
        if _is_promised(req):
            await self._promise(resp, job)
            return
        fingerprint = await self.jobs.fingerprint(job.model)
        with self._seat(req, job, contract.queue_key(job.model)) as seat:
            seat.rejoin()
            await self._answer(req, resp, seat, fingerprint)

    def _seat(self, req: Request, job: contract.Job, queue: str) -> Seat:
        wishes: Wishes = req.context.wishes
        seat = Seat(self.broker, job, queue, wakes_at_end=wishes.is_async or not job.stream)
        body_of(req).watch(seat.leave)
        req.context.seat = seat
        return seat

    async def _answer(self, req: Request, resp: Response, seat: Seat, fingerprint: str) -> None:
        wishes: Wishes = req.context.wishes
        if wishes.is_async:
            await self._whole_or_promise(resp, seat, fingerprint, wishes.wait_s)
        elif seat.job.stream:
            await self._stream(req, resp, seat, fingerprint)
        else:
            await self._whole(resp, seat, fingerprint)

    async def _stream(self, req: Request, resp: Response, seat: Seat, fingerprint: str) -> None:
        reader, job = seat.reader, seat.job
        # A client that comes back to a stream by its key may name the last event that it has.
        after = after_of(req) if seat.is_earlier else -1
        await reader.wait_for(self.config.first_event_s)
        if reader.is_gone:
            raise ClientGone
        if isinstance(reader.first, contract.Failed):
            raise ApiError.of(reader.first)
        answer = None if self._log is None else answer_of(job, fingerprint)

        def close() -> None:
            seat.close()
            if answer is not None:
                self._log_stream(req, job, answer)

        send_events(
            resp,
            EventStream(
                reader,
                frames_of(job, fingerprint, after),
                on_room=self.broker.relay.ask,
                on_events=None if answer is None else answer.add,
                on_close=close,
            ),
        )
        seat.is_kept = True

    async def _whole(self, resp: Response, seat: Seat, fingerprint: str) -> None:
        answer = answer_of(seat.job, fingerprint)
        await seat.reader.collect(answer.add, self.broker.relay.ask)
        if seat.is_gone:
            raise ClientGone
        if not seat.reader.is_over:
            if seat.job.is_detached:
                resp.set_header("location", location_of(seat.job))  # it goes on without us
            raise _draining()
        _send_answer(resp, answer)

    async def _whole_or_promise(
        self, resp: Response, seat: Seat, fingerprint: str, wait_s: float
    ) -> None:
        answer = answer_of(seat.job, fingerprint)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await seat.reader.collect(answer.add, self.broker.relay.ask)
        if seat.is_gone:
            raise ClientGone
        if seat.reader.is_over:
            answer.add(seat.reader.take())  # the end may have come just in time
            _send_answer(resp, answer)
        else:
            await self._promise(resp, seat.job)

    async def _promise(self, resp: Response, job: contract.Job) -> None:
        """202: the answer comes later, at the job's own address."""
        shown = await self.jobs.show(await self.jobs.find(job.id, job.tenant))
        resp.status = falcon.HTTP_202
        resp.set_header("location", location_of(job))
        resp.set_header("preference-applied", "respond-async")
        send_json(resp, shown)

    def _log_stream(self, req: Request, job: contract.Job, answer: Whole) -> None:
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


def send_json(resp: Response, body: msgspec.Struct) -> None:
    """Answer with an object."""
    resp.content_type = falcon.MEDIA_JSON
    resp.data = _encode(body)


def location_of(job: contract.Job) -> str:
    """Where a job can be looked at."""
    return f"/v1/jobs/{job.id}"


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


def _is_promised(req: Request) -> bool:
    wishes: Wishes = req.context.wishes
    return wishes.is_async and not wishes.wait_s


def _send_answer(resp: Response, answer: Whole) -> None:
    answer.check()
    send_json(resp, answer.response())


def _draining() -> ApiError:
    return ApiError("draining", "This server is shutting down; try again.")
