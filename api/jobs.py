"""/v1/jobs/{id}: look at any job, follow it from any event on, stop it, on any API process.

Knows no kind of request.
"""

import hashlib

from falcon import HTTP_204, HTTP_304
from falcon.asgi import Request, Response

from api.broker import Broker
from api.delivery import Reader
from api.errors import ApiError
from api.follow import follow
from api.generation import body_of, send_json
from api.job_store import JobStore
from api.job_view import Standing
from api.params import after_of, whole_number
from api.shape import frames_of, last_number, numbers_frames
from api.wishes import MAX_WAIT_S


class Jobs:
    """A tenant's own jobs; those of others are not there."""

    def __init__(self, broker: Broker, store: JobStore) -> None:
        self._broker = broker
        self._store = store

    async def on_get(self, req: Request, resp: Response, job_id: str) -> None:
        """The job at this moment, or at its end if that comes within `wait` seconds."""
        wait_s = _wait_s(req)
        standing = await self._find(req, job_id)
        if wait_s and not standing.is_over:
            await self._wait(req, standing, wait_s)
            standing = await self._find(req, job_id)
        body = await self._store.show(standing)
        resp.set_header("x-job-id", job_id)
        resp.set_header("cache-control", "no-cache")
        send_json(resp, body)
        tag = hashlib.sha256(resp.data or b"").hexdigest()[:32]
        resp.set_header("etag", f'"{tag}"')
        if req.if_none_match and {tag, "*"} & set(req.if_none_match):
            resp.status = HTTP_304
            resp.data = None

    async def on_delete(self, req: Request, resp: Response, job_id: str) -> None:
        """Stop the job and show what became of it, again and again; one that is over stays so."""
        standing = await self._find(req, job_id)
        if not standing.is_over:
            await self._store.stop(standing.job)
            standing = await self._find(req, job_id)
        resp.set_header("x-job-id", job_id)
        send_json(resp, await self._store.show(standing))

    async def on_get_events(self, req: Request, resp: Response, job_id: str) -> None:
        """Replay behind `Last-Event-ID` or `starting_after`, then follow; 204 if all was said."""
        after = after_of(req)
        standing = await self._find(req, job_id)
        resp.set_header("x-job-id", job_id)
        last = await self._last_number(standing)
        if last is not None and after > last:
            what = f"The job has ended with event {last}; there is no {after}."
            raise ApiError("invalid_value", what, "starting_after")
        if after == last:
            resp.status = HTTP_204
            return
        job = standing.job
        fingerprint = await self._store.fingerprint(job.model)
        follow(self._broker, req, resp, job, frames_of(job, fingerprint, after))

    async def _find(self, req: Request, job_id: str) -> Standing:
        return await self._store.find(job_id, req.context.tenant.name)

    async def _last_number(self, standing: Standing) -> int | None:
        """The number of the stream's last frame, None while more may come."""
        if not standing.is_over or not numbers_frames(standing.job):
            return standing.last_number
        return last_number(standing.job, await self._broker.read_log(standing.job.id))

    async def _wait(self, req: Request, standing: Standing, wait_s: int) -> None:
        reader = Reader(standing.job.id, wakes_at_end=True)
        self._broker.open(reader, standing.job.home)
        try:
            body_of(req).watch(reader.leave)
            await self._store.end_of(reader, wait_s)
        finally:
            self._broker.release(reader, standing.job.home)


def _wait_s(req: Request) -> int:
    text = req.get_param("wait")
    if text is None:
        return 0
    if (wait_s := whole_number(text)) is None:
        raise ApiError("invalid_value", "'wait' must be a number of seconds.", "wait")
    return min(wait_s, MAX_WAIT_S)
