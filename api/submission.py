"""Puts a request's job into the queue on the request's terms, and tells the client of them.

Knows no kind of request and no answer.
"""

import time

import msgspec
from falcon.asgi import Request, Response

from api.admission import RateLimited
from api.auth import Tenant
from api.broker import Broker
from api.config import ApiConfig
from api.errors import ApiError
from api.exchange import exchange_of
from api.hooks.callback import HEADER as WEBHOOK_HEADER, webhook_url
from api.idempotency import tell_earlier
from api.job_store import unknown
from api.rate_headers import rate_headers
from api.terms import on_terms, terms_of
from api.wishes import Wishes
from workers import contract


class Submission:
    """What all endpoints that make jobs share. `req.context` has the `tenant` and its `wishes`."""

    def __init__(self, broker: Broker, config: ApiConfig) -> None:
        self._broker = broker
        self._config = config
        self._max_wait_ms = round(config.max_queue_wait_s * 1000)

    async def submit(
        self, req: Request, resp: Response, job: contract.Job, queue: str, tier: str | None
    ) -> contract.Job:
        """Enqueue; returns the job that answers: this one on its terms, or the one that the same
        Idempotency-Key began before. `tier` is the body's `service_tier`. Raises ApiError.
        """
        tenant: Tenant = req.context.tenant
        wishes: Wishes = req.context.wishes
        job = self._on_terms(req, job, tier)
        terms = terms_of(
            job,
            tenant,
            wishes,
            elapsed_ms=int((time.monotonic() - req.context.started_s) * 1000),
            max_wait_ms=self._max_wait_ms,
        )
        try:
            accepted = await self._broker.enqueue(job, queue, terms)
        except RateLimited as error:
            _tell_limits(resp, tenant, error.requests_left, error.tokens_left)
            raise
        except BaseException as error:
            if not wishes.idempotency_key:
                self._undo(job, queue, error)
            raise
        resp.set_header("x-job-id", accepted.job_id)
        if not accepted.is_new:
            tell_earlier(resp)
            return await self._earlier(accepted.job_id)
        _tell_limits(resp, tenant, accepted.requests_left, accepted.tokens_left)
        return job

    def _on_terms(self, req: Request, job: contract.Job, tier: str | None) -> contract.Job:
        tenant, wishes = req.context.tenant, req.context.wishes
        job = on_terms(job, tenant, wishes, route=req.path, tier=tier, trace=exchange_of(req).trace)
        if not job.is_detached:  # whoever waits is told by the answer
            return job
        url = webhook_url(req.get_header(WEBHOOK_HEADER), tenant, self._config)
        return msgspec.structs.replace(job, webhook=url)

    def _undo(self, job: contract.Job, queue: str, error: BaseException) -> None:
        """A job may be in the queue without our knowing; nobody would ever ask for it."""
        if not isinstance(error, ApiError) or error.code == "queue_unavailable":
            self._broker.cancel_soon(job, queue, whoever_reads=True)

    async def _earlier(self, job_id: str) -> contract.Job:
        view = await self._broker.view(job_id)
        if view is None:
            raise unknown(job_id)
        return view.job


def _tell_limits(
    resp: Response, tenant: Tenant, requests_left: int | None, tokens_left: int | None
) -> None:
    if requests_left is not None or tokens_left is not None:
        resp.set_headers(rate_headers(tenant, requests_left or 0, tokens_left or 0))
