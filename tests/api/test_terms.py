"""On what terms a tenant's request enters the queue."""

import msgspec
import pytest

from api.auth import Tenant
from api.errors import ApiError
from api.terms import on_terms, service_class, terms_of
from api.wishes import Wishes
from workers.contract import Job, Sampling

JOB = Job(
    id="j",
    kind="completion",
    model="m",
    home="A",
    created_s=1,
    prompts=["a"],
    sampling=Sampling(seed=1),
)


@pytest.mark.parametrize(
    ("own", "wished", "tier", "expected"),
    [
        ("default", None, None, "default"),
        ("interactive", None, None, "interactive"),
        ("interactive", None, "auto", "interactive"),
        ("interactive", None, "default", "interactive"),
        ("interactive", None, "flex", "default"),
        ("batch", None, "flex", "batch"),
        ("default", None, "priority", "default"),
        ("interactive", None, "priority", "interactive"),
        ("default", "batch", None, "batch"),
        ("default", "interactive", None, "default"),
        ("batch", "interactive", "priority", "batch"),
        ("interactive", "batch", "priority", "batch"),
    ],
)
def test_a_class_is_what_was_asked_for_but_never_above_the_tenants(own, wished, tier, expected):
    assert service_class(Tenant("t", service_class=own), wished, tier) == expected


def test_an_administrator_may_ask_for_any_class():
    admin = Tenant("", service_class="default", is_admin=True)
    assert service_class(admin, "interactive", None) == "interactive"
    assert service_class(admin, None, None) == "default"


def stamped(job=JOB, tenant=None, wishes=None):
    return on_terms(job, tenant or Tenant("t"), wishes or Wishes(), route="/r", tier=None)


def test_a_job_is_its_tenants_and_knows_its_route():
    job = stamped(tenant=Tenant("t", service_class="batch"))
    assert (job.tenant, job.endpoint, job.service_class) == ("t", "/r", "batch")
    assert stamped(msgspec.structs.replace(JOB, endpoint="/own")).endpoint == "/own"


@pytest.mark.parametrize(
    "wishes", [Wishes(is_async=True), Wishes(idempotency_key="k")], ids=["async", "key"]
)
def test_whoever_may_come_back_need_not_stay(wishes):
    assert stamped(wishes=wishes).is_detached
    assert not stamped().is_detached
    assert stamped(msgspec.structs.replace(JOB, is_detached=True)).is_detached


def terms(job=JOB, tenant=None, wishes=None, elapsed_ms=0):
    return terms_of(
        job, tenant or Tenant(), wishes or Wishes(), elapsed_ms=elapsed_ms, max_wait_ms=600
    )


def test_a_tenants_limits_are_part_of_the_terms():
    found = terms(tenant=Tenant("t", requests_per_min=1, tokens_per_min=2, max_jobs=3))
    assert (found.requests_per_min, found.tokens_per_min, found.tenant_jobs) == (1, 2, 3)


def test_only_a_client_that_waits_waits_no_longer_than_allowed():
    assert terms().wait_ms == 600
    assert terms(msgspec.structs.replace(JOB, is_detached=True)).wait_ms == 0


def test_the_time_that_a_body_took_counts_against_the_deadline():
    assert terms(wishes=Wishes(deadline_ms=500), elapsed_ms=200).deadline_ms == 300
    assert terms().deadline_ms == 0
    with pytest.raises(ApiError) as caught:
        terms(wishes=Wishes(deadline_ms=500), elapsed_ms=500)
    assert (caught.value.status, caught.value.code) == (408, "deadline_exceeded")


def test_a_key_goes_with_the_digest_of_its_body():
    found = terms(wishes=Wishes(idempotency_key="k", digest="d"))
    assert (found.idempotency_key, found.digest) == ("k", "d")
