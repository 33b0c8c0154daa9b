"""Webhooks arrive signed, are tried again for a day, and never go where they must not."""

import asyncio
import json
import time
from types import SimpleNamespace

import msgspec
import openai
import pytest
import redis.asyncio

from api.chores import Chores
from api.config import ApiConfig
from api.hooks.outbound import Outbound
from api.hooks.webhooks import (
    DEAD_HOOKS_KEY,
    MAX_IN_FLIGHT,
    MAX_PER_HOST,
    MAX_PER_TENANT,
    Notice,
    Webhooks,
    hook_key,
)
from tests.api.hook_target import Target
from tests.api.until import until
from workers import contract
from workers.environment import SettingError

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldY"
TYPES = [
    *("response.completed", "response.failed", "response.cancelled", "response.incomplete"),
    *("batch.completed", "batch.failed", "batch.expired", "batch.cancelled"),
    *("job.completed", "job.failed", "job.cancelled"),
]


async def call(command):
    return await command()


class Post:
    """One API process's webhooks, with a clock of its own."""

    def __init__(self, url):
        self.client = redis.asyncio.Redis.from_url(url)
        self.secrets = {}
        self.now_s = time.time()
        self.outbound = Outbound(allow_private=True)
        self.hooks = self.webhooks()

    def webhooks(self, **settings):
        config = ApiConfig(**{"webhook_secret": SECRET, **settings})
        secret_of = lambda tenant: self.secrets.get(tenant, "")  # noqa: E731
        return Webhooks(self.client, call, config, secret_of, self.outbound)

    async def announce(self, url, subject="resp_1", **fields):
        notice = Notice(
            subject=subject,
            type="response.completed",
            url=url,
            tenant="acme",
            occasion="7",
            created_s=int(self.now_s),
        )
        await self.hooks.announce(msgspec.structs.replace(notice, **fields))

    async def fields(self, subject="resp_1"):
        fields = await self.client.hgetall(hook_key(subject))
        return {name.decode(): value.decode() for name, value in fields.items()}

    async def is_done(self):
        is_delivered = (await self.fields())["state"] == "delivered"
        return is_delivered and not await self.client.exists(contract.CHORES_KEY)

    async def dead(self):
        return await self.client.zrange(DEAD_HOOKS_KEY, 0, -1)


@pytest.fixture
async def post(redis_url, monkeypatch):
    post = Post(redis_url)
    clock = SimpleNamespace(time=lambda: post.now_s)
    monkeypatch.setattr("api.hooks.webhooks.time", clock)
    yield post
    await post.client.aclose()


@pytest.fixture
async def target():
    target = await Target().start()
    yield target
    await target.stop()


def unwrapped(received, secret=SECRET):
    with openai.OpenAI(api_key="none", webhook_secret=secret) as client:
        return client.webhooks.unwrap(received.body, received.headers)


@pytest.mark.parametrize("event_type", TYPES)
async def test_openais_client_takes_every_event(post, target, event_type):
    await post.announce(target.url, "thing_1", type=event_type)
    assert await post.hooks.deliver("thing_1") is None
    (received,) = target.received
    event = unwrapped(received)
    assert (event.type, event.data.id, event.id) == (event_type, "thing_1", "evt_thing_1")
    assert (event.object, event.created_at) == ("event", int(post.now_s))
    assert received.headers["webhook-id"] == "wh_thing_1"
    assert received.headers["content-type"] == "application/json"
    assert received.path == "/hook?a=1"


async def test_what_was_changed_on_the_way_is_not_taken(post, target):
    await post.announce(target.url)
    await post.hooks.deliver("resp_1")
    (received,) = target.received
    with pytest.raises(openai.InvalidWebhookSignatureError):
        unwrapped(received._replace(body=received.body.replace(b"completed", b"cancelled")))
    with pytest.raises(openai.InvalidWebhookSignatureError):
        unwrapped(received, OTHER_SECRET)


async def test_a_tenants_own_secret_signs_its_events(post, target):
    post.secrets["acme"] = OTHER_SECRET
    await post.announce(target.url)
    await post.hooks.deliver("resp_1")
    assert unwrapped(target.received[0], OTHER_SECRET).type == "response.completed"


async def test_an_event_is_delivered_once_however_often_it_is_announced(post, target):
    await post.announce(target.url)
    await post.announce(target.url)
    assert await post.hooks.deliver("resp_1") is None
    await post.client.delete(contract.CHORES_KEY)
    await post.announce(target.url)
    assert not await post.client.exists(contract.CHORES_KEY)
    assert await post.hooks.deliver("resp_1") is None
    assert len(target.received) == 1
    assert (await post.fields())["state"] == "delivered"


async def test_an_event_that_waits_for_its_next_try_is_left_to_wait_but_not_forgotten(post, target):
    chore, later = "hook:resp_1", 9e12
    await post.announce(target.url)
    await post.client.zadd(contract.CHORES_KEY, {chore: later})
    await post.announce(target.url)
    assert await post.client.zscore(contract.CHORES_KEY, chore) == later
    await post.client.delete(contract.CHORES_KEY)
    await post.announce(target.url)
    assert await post.client.zscore(contract.CHORES_KEY, chore) < later


async def test_a_later_event_of_the_same_job_is_another_one(post, target):
    await post.announce(target.url, type="response.failed")
    await post.hooks.deliver("resp_1")
    await post.announce(target.url, occasion="12")
    await post.hooks.deliver("resp_1")
    first, second = map(unwrapped, target.received)
    assert (first.type, second.type) == ("response.failed", "response.completed")
    ids = [received.headers["webhook-id"] for received in target.received]
    assert ids == ["wh_resp_1", "wh_resp_1_12"]
    assert first.id != second.id


async def test_an_event_that_takes_the_place_of_one_under_way_is_not_lost(post, target):
    target.may_answer.clear()
    await post.announce(target.url, type="response.failed")
    under_way = asyncio.create_task(post.hooks.deliver("resp_1"))
    await until(lambda: target.received)
    await post.announce(target.url, occasion="12")
    target.may_answer.set()
    assert await under_way == 0.0
    assert await post.hooks.deliver("resp_1") is None
    assert unwrapped(target.received[-1]).type == "response.completed"


FAILURES = {
    "error": (500, "HTTP 500"),
    "overloaded": (429, "HTTP 429"),
    "moved": (
        b"HTTP/1.1 307 Moved\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
        "HTTP 307",
    ),
    "cut": (b"", "RemoteProtocolError"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_failure_is_noted_and_tried_again(post, target, name):
    answer, error = FAILURES[name]
    target.answers = [answer, 200]
    await post.announce(target.url)
    assert 5 <= await post.hooks.deliver("resp_1") <= 6.5
    fields = await post.fields()
    assert (fields["state"], fields["attempts"], fields["error"]) == ("waiting", "1", error)
    assert await post.hooks.deliver("resp_1") is None
    assert (await post.fields())["attempts"] == "2"
    assert len(target.received) == 2


async def test_a_slow_receiver_is_a_failure(post, target):
    target.answers = [None]
    post.outbound = Outbound(allow_private=True, timeout_s=0.3)
    await post.announce(target.url)
    assert await post.webhooks().deliver("resp_1") >= 5
    assert (await post.fields())["error"] == "no answer within 0.3 s"


async def test_every_try_has_the_same_id_and_body_and_a_fresh_timestamp(post, target):
    target.answers = [500, 500, 200]
    await post.announce(target.url)
    for _ in range(3):
        await post.hooks.deliver("resp_1")
        post.now_s += 1000
    stamps = [int(received.headers["webhook-timestamp"]) for received in target.received]
    assert [stamp - stamps[0] for stamp in stamps] == [0, 1000, 2000]
    assert len({received.headers["webhook-id"] for received in target.received}) == 1
    assert len({received.headers["webhook-signature"] for received in target.received}) == 3
    assert len({received.body for received in target.received}) == 1


async def test_a_receiver_that_is_down_is_tried_for_a_day_and_then_given_up(post, caplog):
    await post.announce("http://127.0.0.1:9/")
    started_s, delays = post.now_s, []
    while (delay_s := await post.hooks.deliver("resp_1")) is not None:
        delays.append(delay_s)
        post.now_s += delay_s
    assert all(5 * 2**n <= delay_s <= 6.5 * 2**n for n, delay_s in enumerate(delays[:9]))
    assert max(delays) <= 3600 * 1.3
    assert 22 * 3600 < post.now_s - started_s <= 24 * 3600
    fields = await post.fields()
    assert (fields["state"], fields["error"]) == ("dead", "Connection refused")
    assert int(fields["attempts"]) == len(delays) + 1
    assert await post.dead() == [b"resp_1"]
    assert await post.client.ttl(hook_key("resp_1")) > 6 * 86400
    assert "webhook wh_resp_1 to 127.0.0.1:9 is given up" in caplog.text
    assert await post.hooks.deliver("resp_1") is None


async def test_a_receiver_that_is_gone_for_good_is_left_alone(post, target, caplog):
    target.answers = [410]
    await post.announce(target.url)
    assert await post.hooks.deliver("resp_1") is None
    assert await post.hooks.deliver("resp_1") is None
    assert len(target.received) == 1
    assert (await post.fields())["state"] == "gone"
    assert await post.dead() == []
    assert "given up after 1 tries: HTTP 410" in caplog.text


async def test_a_secret_that_went_missing_is_waited_for(post, target):
    post.hooks = post.webhooks(webhook_secret="")
    await post.announce(target.url)
    assert await post.hooks.deliver("resp_1") is not None
    assert "whsec_" in (await post.fields())["error"]
    assert target.received == []
    post.secrets["acme"] = OTHER_SECRET
    assert await post.hooks.deliver("resp_1") is None
    assert unwrapped(target.received[0], OTHER_SECRET).data.id == "resp_1"


async def test_private_addresses_are_refused_unless_they_are_allowed(post, target):
    await post.announce(target.url)
    config = ApiConfig(webhook_secret=SECRET)
    closed = Webhooks(post.client, call, config, lambda tenant: "")
    assert await closed.deliver("resp_1") is not None
    assert (await post.fields())["error"] == "points to a private address"
    assert target.num_connections == 0
    config = ApiConfig(webhook_secret=SECRET, webhook_allow_private=True)
    assert await Webhooks(post.client, call, config, lambda tenant: "").deliver("resp_1") is None


async def test_a_slow_receiver_leaves_places_to_others(post, target):
    other = await Target().start()
    target.may_answer.clear()
    for number in range(MAX_PER_HOST + 1):
        await post.announce(target.url, f"slow_{number}")
    under_way = [
        asyncio.create_task(post.hooks.deliver(f"slow_{number}")) for number in range(MAX_PER_HOST)
    ]
    await until(lambda: len(target.received) == MAX_PER_HOST)
    last = f"slow_{MAX_PER_HOST}"
    delay_s = await post.hooks.deliver(last)
    assert delay_s is not None
    assert 5 <= delay_s <= 15
    assert (await post.fields(last))["attempts"] == "0"
    await post.announce(other.url, "other_1")
    assert await post.hooks.deliver("other_1") is None
    target.may_answer.set()
    assert await asyncio.gather(*under_way) == [None] * MAX_PER_HOST
    assert await post.hooks.deliver(last) is None
    await other.stop()


async def test_slow_receivers_together_leave_places_to_other_chores(post, target):
    others = [await Target().start() for _ in range(MAX_IN_FLIGHT // MAX_PER_HOST)]
    for number in range(MAX_IN_FLIGHT):
        other = others[number // MAX_PER_HOST]
        other.may_answer.clear()
        await post.announce(other.url, f"slow_{number}", tenant=f"t-{number % 2}")
    under_way = [
        asyncio.create_task(post.hooks.deliver(f"slow_{number}")) for number in range(MAX_IN_FLIGHT)
    ]
    await until(lambda: sum(len(other.received) for other in others) == MAX_IN_FLIGHT)
    await post.announce(target.url)
    assert await post.hooks.deliver("resp_1") is not None
    assert target.num_connections == 0
    for other in others:
        other.may_answer.set()
    await asyncio.gather(*under_way)
    assert await post.hooks.deliver("resp_1") is None
    for other in others:
        await other.stop()


async def test_a_tenant_of_slow_receivers_leaves_places_to_other_tenants(post, target):
    slow = [await Target().start() for _ in range(2)]
    for number in range(MAX_PER_TENANT + 1):
        slow[number % 2].may_answer.clear()
        await post.announce(slow[number % 2].url, f"slow_{number}", tenant="t-2")
    under_way = [
        asyncio.create_task(post.hooks.deliver(f"slow_{number}"))
        for number in range(MAX_PER_TENANT)
    ]
    await until(lambda: sum(len(one.received) for one in slow) == MAX_PER_TENANT)
    assert await post.hooks.deliver(f"slow_{MAX_PER_TENANT}") is not None
    assert sum(len(one.received) for one in slow) == MAX_PER_TENANT
    await post.announce(target.url)
    assert await post.hooks.deliver("resp_1") is None
    for one in slow:
        one.may_answer.set()
    await asyncio.gather(*under_way)
    for one in slow:
        await one.stop()


async def test_what_redis_forgot_is_over(post):
    assert await post.hooks.deliver("resp_1") is None
    assert await post.fields() == {}


async def test_all_that_is_kept_of_an_event_expires(post, target):
    target.answers = [500, 200]
    await post.announce(target.url)
    for _ in range(2):
        assert 86400 < await post.client.ttl(hook_key("resp_1")) <= 2 * 86400
        await post.hooks.deliver("resp_1")
    assert 86400 < await post.client.ttl(hook_key("resp_1")) <= 2 * 86400


async def test_chores_carry_an_event_through_a_failure_to_its_receiver(post, target, monkeypatch):
    monkeypatch.setattr("api.hooks.webhooks.FIRST_RETRY_S", 0.05)
    monkeypatch.setattr("api.chores.POLL_S", 0.05)
    target.answers = [500, 200]
    chores = Chores(post.client, call)
    chores.register("hook", post.hooks.deliver)
    run = asyncio.create_task(chores.run())
    await post.announce(target.url)
    await until(post.is_done)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    assert [json.loads(received.body)["type"] for received in target.received] == [
        *("response.completed", "response.completed"),
    ]


def test_bad_settings_stop_the_start(post):
    with pytest.raises(SettingError, match="TRAMONTANE_WEBHOOK_SECRET"):
        post.webhooks(webhook_secret="secret")
