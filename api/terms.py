"""The terms on which a tenant's request enters the queue: its class, deadline, limits. Pure.

Knows no HTTP and no Redis.
"""

from collections.abc import Mapping
from typing import get_args

import msgspec

from api.admission import Terms
from api.auth import Tenant
from api.wishes import Wishes, deadline_exceeded
from workers import contract
from workers.contract import ServiceClass

# How long vectors are kept whose client waits for them: they are large, and it has them then.
WAITED_FOR_TTL_S = 60

_CLASSES: tuple[ServiceClass, ...] = get_args(ServiceClass)  # most urgent first
# OpenAI's tiers. What is not here means the tenant's own class.
_TIERS: Mapping[str, ServiceClass] = {
    "priority": "interactive",
    "fast": "interactive",
    "flex": "default",
}


def service_class(tenant: Tenant, wished: ServiceClass | None, tier: str | None) -> ServiceClass:
    """The class of a request by its header or else its `service_tier`.

    Only administrators, which without keys everybody is, get one above their own.
    """
    own = tenant.service_class
    asked = wished or _TIERS.get(tier or "", own)
    return asked if tenant.is_admin else max(asked, own, key=_CLASSES.index)


def on_terms(
    job: contract.Job,
    tenant: Tenant,
    wishes: Wishes,
    *,
    route: str,
    tier: str | None,
    trace: dict[str, str] | None = None,
) -> contract.Job:
    """The job as its tenant and the request's headers make it.

    Who wants the answer later, or may ask for it again, does not have to stay for it.
    """
    is_detached = job.is_detached or wishes.is_async or bool(wishes.idempotency_key)
    is_brief = job.makes_vectors and not is_detached
    return msgspec.structs.replace(
        job,
        tenant=tenant.name,
        service_class=service_class(tenant, wishes.service_class, tier),
        endpoint=job.endpoint or route,
        is_detached=is_detached,
        trace=trace or {},
        result_ttl_s=job.result_ttl_s or (WAITED_FOR_TTL_S if is_brief else 0),
    )


def terms_of(
    job: contract.Job, tenant: Tenant, wishes: Wishes, *, elapsed_ms: int, max_wait_ms: int
) -> Terms:
    """What the queue is told beside the job, `elapsed_ms` after the request's arrival.

    `max_wait_ms` is for jobs whose client waits. Raises ApiError `deadline_exceeded`.
    """
    deadline_ms = 0
    if wishes.deadline_ms is not None:
        deadline_ms = wishes.deadline_ms - elapsed_ms
        if deadline_ms <= 0:
            raise deadline_exceeded()
    return Terms(
        deadline_ms=deadline_ms,
        wait_ms=0 if job.is_detached else max_wait_ms,
        idempotency_key=wishes.idempotency_key,
        digest=wishes.digest,
        tenant_jobs=tenant.max_jobs,
        requests_per_min=tenant.requests_per_min,
        tokens_per_min=tenant.tokens_per_min,
    )
