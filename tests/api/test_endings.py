"""A job's end is told to its webhook and its batch, under the name that it deserves."""

import pytest
import redis.asyncio

from api.hooks.endings import Endings, batch_notice, event_type
from workers import contract
from workers.contract import Delta, Done, Failed, Fence, Retried, Sampling, Started, Tokens, Usage

URL = "https://hooks.example/"
RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
STOPPED = (Started(0, 3), Tokens(1, (Delta(0, (1,), "a", "stop"),)), Done(2, Usage(3, 1)))
CUT = (Started(0, 3), Tokens(1, (Delta(0, (1,), "a", "length"),)), Done(2, Usage(3, 1)))
CUT_LATE = (*CUT[:2], *(Fence(n, "w") for n in range(2, 6)), CUT[2])
CANCELLED = (Started(0, 3), Failed(1, "cancelled", "cancelled"))
CRASHED = (Failed(0, "engine_crashed", "crashed"),)
RETRIED = (Started(0, 3), Retried(1), *(Tokens(2, (Delta(0, (1,), "a", None),)),))


def a_job(**fields):
    return contract.Job(
        id="resp_1",
        kind="chat",
        model="m",
        home="h",
        created_s=1,
        sampling=Sampling(seed=1),
        **{"endpoint": CHAT, **fields},
    )


@pytest.mark.parametrize(
    ("events", "response", "job"),
    [
        (STOPPED, "response.completed", "job.completed"),
        (CUT, "response.incomplete", "job.completed"),
        (CUT_LATE, "response.incomplete", "job.completed"),
        (CANCELLED, "response.cancelled", "job.cancelled"),
        (CRASHED, "response.failed", "job.failed"),
    ],
    ids=["stopped", "cut", "cut, then taken over", "cancelled", "crashed"],
)
def test_an_end_has_openais_name_or_our_own(events, response, job):
    assert event_type(a_job(endpoint=RESPONSES), events) == response
    assert event_type(a_job(), events) == job


def test_a_batch_has_one_event_under_openais_name():
    notice = batch_notice("batch_1", status="expired", tenant="acme", url=URL, ended_s=9)
    assert (notice.subject, notice.type, notice.occasion) == ("batch_1", "batch.expired", "expired")
    assert (notice.tenant, notice.url, notice.created_s) == ("acme", URL, 9)


class Office:
    def __init__(self, url):
        self.client = redis.asyncio.Redis.from_url(url)
        self.notices = []
        self.lines = []
        self.endings = Endings(self.client, self.call, self.announce)
        self.endings.on_line = self.on_line

    async def call(self, command):
        return await command()

    async def announce(self, notice):
        self.notices.append(notice)

    async def on_line(self, job):
        self.lines.append((job.batch, job.line))

    async def end(self, job, events):
        await self.client.hset(contract.job_key(job.id), "spec", contract.encode(job))
        await self.client.rpush(contract.log_key(job.id), *map(contract.encode, events))
        await self.endings.handle(job.id)


@pytest.fixture
async def office(redis_url):
    office = Office(redis_url)
    yield office
    await office.client.aclose()


async def test_a_webhook_is_noted_with_all_that_its_delivery_needs(office):
    await office.end(a_job(webhook=URL, tenant="acme", endpoint=RESPONSES), CUT_LATE)
    (notice,) = office.notices
    assert (notice.subject, notice.type, notice.url) == ("resp_1", "response.incomplete", URL)
    assert (notice.tenant, notice.occasion) == ("acme", "2")
    assert office.lines == []


async def test_a_batch_hears_of_its_line(office):
    await office.end(a_job(batch="batch_1", line=7), STOPPED)
    assert office.lines == [("batch_1", 7)]
    assert office.notices == []


async def test_a_job_that_was_started_again_has_not_ended(office):
    await office.end(a_job(webhook=URL, batch="batch_1"), RETRIED)
    assert (office.notices, office.lines) == ([], [])


async def test_a_record_that_is_gone_is_told_to_the_log(office, caplog):
    await office.endings.handle("resp_1")
    assert "job resp_1 ended, but its record is gone" in caplog.text
    assert office.notices == []


async def test_a_record_of_another_version_is_left_for_those_who_read_it(office):
    job = a_job(webhook=URL, version=contract.SCHEMA_VERSION + 1)
    with pytest.raises(contract.WireError):
        await office.end(job, STOPPED)
