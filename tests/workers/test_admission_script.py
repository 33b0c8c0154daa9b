"""Who gets in, on what terms, and when to come again: the enqueue script in a real server."""

import math
import random
import statistics
import time
from collections.abc import Iterator

import pytest

from tests.workers.queue_scripts import QueueScripts
from workers import contract
from workers.lease import Claimed

ADMITTED, TAKEN, SAME_KEY = 1, 0, 2
FLEET_FULL, TENANT_FULL, RATE_LIMITED, UNMEETABLE, KEY_CONFLICT = -1, -2, -3, -4, -5
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
DEFAULT_RETRY_S, MAX_RETRY_S = 5, 120


@pytest.fixture
def scripts(redis_url: str) -> Iterator[QueueScripts]:
    scripts = QueueScripts(redis_url)
    yield scripts
    scripts.client.close()


def fill(scripts: QueueScripts, count: int, tenant: str = "", cost: int = 100, **terms) -> None:
    """More jobs of a tenant."""
    start = int(scripts.client.incrby("test:filled", count)) - count
    for number in range(start, start + count):
        assert scripts.enqueue(f"{tenant}-{number}", tenant, cost=cost, **terms)[0] == ADMITTED


def work(scripts: QueueScripts, seconds: float, *, num_slots: int = 4, job_s: float = 0.5) -> None:
    """Workers with `num_slots` places take jobs and end each after `job_s` of the test's time."""
    running: list[Claimed] = []
    for _ in range(round(seconds / job_s)):
        running += scripts.claim(free=num_slots - len(running))
        scripts.advance(round(job_s * 1000))
        for job in running:
            scripts.finish(job, used=10)
        running = []


class TestBounds:
    def test_waiting_and_running_jobs_count(self, scripts):
        fill(scripts, 3)
        scripts.claim()
        assert scripts.enqueue("x", max_jobs=4)[0] == ADMITTED
        assert scripts.enqueue("y", max_jobs=4) == [FLEET_FULL, DEFAULT_RETRY_S]

    def test_prompt_tokens_count_while_they_wait(self, scripts):
        fill(scripts, 2, prompt_tokens=400)
        assert scripts.enqueue("x", prompt_tokens=201, max_tokens=1000)[0] == FLEET_FULL
        scripts.claim()
        assert scripts.enqueue("x", prompt_tokens=201, max_tokens=1000)[0] == ADMITTED

    def test_a_prompt_beyond_the_bound_gets_in_when_nothing_waits(self, scripts):
        assert scripts.enqueue("x", prompt_tokens=5000, max_tokens=1000)[0] == ADMITTED
        assert scripts.enqueue("y", prompt_tokens=1, max_tokens=1000)[0] == FLEET_FULL

    def test_a_tenant_has_its_own_bound(self, scripts):
        fill(scripts, 2, "a")
        scripts.claim()
        assert scripts.enqueue("x", "a", tenant_jobs=2)[0] == TENANT_FULL
        assert scripts.enqueue("x", "b", tenant_jobs=2)[0] == ADMITTED

    def test_ended_jobs_do_not_count(self, scripts):
        fill(scripts, 2, "a", prompt_tokens=10)
        for job in scripts.claim(free=2):
            scripts.finish(job)
        terms = {"max_jobs": 1, "tenant_jobs": 1, "max_tokens": 10, "prompt_tokens": 10}
        assert scripts.enqueue("x", "a", **terms)[0] == ADMITTED

    def test_a_record_that_expired_while_it_waited_does_not_count_for_ever(self, scripts):
        fill(scripts, 2, "a", prompt_tokens=10)
        scripts.client.delete(contract.job_key("a-0"))
        for job in scripts.claim(free=2):
            scripts.finish(job)
        assert scripts.client.hlen(scripts.key("tenants")) == 0
        assert scripts.sums() == {}

    @pytest.mark.parametrize(
        "terms",
        [
            {"max_jobs": 1},
            {"tenant_jobs": 1},
            {"requests_per_min": 1},
            {"tokens_per_min": 100},
            {"max_tokens": 50, "prompt_tokens": 60},
        ],
        ids=lambda terms: next(iter(terms)),
    )
    def test_a_refusal_writes_nothing(self, scripts, terms):
        scripts.enqueue("first", "a", **{"prompt_tokens": 1, **terms})
        before = {key: scripts.client.dump(key) for key in scripts.client.keys("*")}
        reply = scripts.enqueue("x", "a", key="k", digest="d", wait_ms=5, deadline_ms=9, **terms)
        assert reply[0] < 0
        assert {key: scripts.client.dump(key) for key in scripts.client.keys("*")} == before

    def test_a_cancel_that_overtook_its_job_refuses_it(self, scripts):
        entry = contract.encode(contract.Failed(0, "cancelled", ""))
        assert scripts.cancel("x", entry) == -1
        assert 0 < scripts.client.ttl(contract.cancel_key("x")) <= 3600
        assert scripts.enqueue("x") == [-6]
        assert scripts.claim() == []
        assert scripts.enqueue("y")[0] == 1

    @pytest.mark.parametrize("whom", ["waiting", "unstarted"])
    def test_who_only_ends_what_waits_refuses_nothing_that_comes(self, scripts, whom):
        entry = contract.encode(contract.Failed(0, "no_workers", ""))
        assert scripts.cancel("x", entry, whom) == -1
        assert scripts.enqueue("x")[0] == 1


class TestBuckets:
    def test_requests_refill_all_the_time(self, scripts):
        limit = {"requests_per_min": 6}
        lefts = [scripts.enqueue(f"j{n}", "a", **limit)[1] for n in range(6)]
        assert lefts == [5, 4, 3, 2, 1, 0]
        assert scripts.enqueue("x", "a", **limit) == [RATE_LIMITED, 10, b"requests", 0, -1]
        scripts.advance(9_999)
        assert scripts.enqueue("x", "a", **limit)[:2] == [RATE_LIMITED, 1]
        scripts.advance(1)
        assert scripts.enqueue("x", "a", **limit)[0] == ADMITTED

    def test_a_bucket_holds_no_more_than_a_minutes_worth(self, scripts):
        scripts.enqueue("first", "a", requests_per_min=6)
        scripts.advance(HOUR_MS)
        assert scripts.enqueue("x", "a", requests_per_min=6)[1] == 5

    def test_tokens_are_charged_before_and_come_back_after(self, scripts):
        limit = {"tokens_per_min": 1000}
        assert scripts.enqueue("j", "a", cost=900, **limit) == [ADMITTED, -1, 100]
        assert scripts.enqueue("x", "a", cost=200, **limit)[:3] == [RATE_LIMITED, 6, b"tokens"]
        (job,) = scripts.claim()
        scripts.finish(job, used=300)
        assert scripts.enqueue("x", "a", cost=200, **limit) == [ADMITTED, -1, 500]

    def test_what_was_used_beyond_the_estimate_is_owed(self, scripts):
        limit = {"tokens_per_min": 1000}
        scripts.enqueue("j", "a", cost=100, **limit)
        scripts.finish(scripts.claim()[0], used=2900)
        reply = scripts.enqueue("x", "a", cost=1, **limit)
        assert reply == [RATE_LIMITED, math.ceil(1901 * 60 / 1000), b"tokens", -1, 0]

    @pytest.mark.parametrize("cost", [1001, 1002, 5000])
    def test_a_request_beyond_a_minutes_worth_needs_a_full_bucket(self, scripts, cost):
        limit = {"tokens_per_min": 1000}
        assert scripts.enqueue("big", "a", cost=cost, **limit) == [ADMITTED, -1, 0]
        assert scripts.enqueue("x", "a", cost=1, **limit)[0] == RATE_LIMITED
        scripts.finish(scripts.claim()[0], used=0)
        assert scripts.enqueue("x", "a", cost=1000, **limit) == [ADMITTED, -1, 0]

    def test_a_cancelled_job_gives_everything_back(self, scripts):
        scripts.enqueue("j", "a", cost=1000, tokens_per_min=1000)
        assert scripts.cancel("j", contract.encode(contract.Failed(0, "cancelled", ""))) == 1
        assert scripts.enqueue("x", "a", cost=1000, tokens_per_min=1000)[0] == ADMITTED

    def test_nothing_is_given_back_where_nobody_knows(self, scripts):
        scripts.enqueue("j", "a", cost=1000, tokens_per_min=1000)
        scripts.finish(scripts.claim()[0], used=-1)
        assert scripts.enqueue("x", "a", cost=1000, tokens_per_min=1000)[0] == RATE_LIMITED

    def test_a_limit_that_was_set_later_begins_full(self, scripts):
        scripts.enqueue("j", "a", cost=50, requests_per_min=10)
        scripts.finish(scripts.claim()[0], used=900)
        limits = {"requests_per_min": 10, "tokens_per_min": 1000}
        assert scripts.enqueue("x", "a", cost=100, **limits) == [ADMITTED, 8, 900]

    def test_tenants_have_buckets_of_their_own(self, scripts):
        assert scripts.enqueue("j", "a", requests_per_min=1)[0] == ADMITTED
        assert scripts.enqueue("k", "b", requests_per_min=1)[0] == ADMITTED


class TestDeadlines:
    def test_an_unknown_rate_admits(self, scripts):
        fill(scripts, 50, cost=100_000)
        assert scripts.enqueue("x", deadline_ms=1)[0] == ADMITTED

    def test_a_known_rate_refuses_what_cannot_be_met(self, scripts):
        fill(scripts, 200, cost=100)
        work(scripts, 10)  # 8 jobs a second; 120 are left
        code, wait_ms = scripts.enqueue("x", deadline_ms=5000)
        assert code == UNMEETABLE
        assert wait_ms == pytest.approx(15_000, rel=0.1)
        assert scripts.enqueue("x", deadline_ms=17_000)[0] == ADMITTED

    def test_a_flooding_neighbour_does_not_make_a_deadline_unmeetable(self, scripts):
        fill(scripts, 1000, "a", cost=100)
        work(scripts, 10)
        assert scripts.enqueue("x", "a", deadline_ms=5000)[0] == UNMEETABLE
        assert scripts.enqueue("x", "b", deadline_ms=5000)[0] == ADMITTED

    def test_more_urgent_classes_come_before(self, scripts):
        fill(scripts, 200, "a", cost=100, service_class="interactive")
        work(scripts, 10)
        terms = {"deadline_ms": 5000}
        assert scripts.enqueue("x", "b", "default", **terms)[0] == UNMEETABLE
        assert scripts.enqueue("x", "b", "interactive", **terms)[0] == ADMITTED

    def test_a_deadline_is_kept_with_the_job_and_looked_at(self, scripts):
        scripts.enqueue("x", deadline_ms=7000, wait_ms=9000)
        assert int(scripts.client.hget("job:x", "deadline_ms")) == scripts.now_ms + 7000
        assert scripts.client.zscore("chores", "wait:x") == scripts.now_ms + 7000


class TestDrainRate:
    def retry_s(self, scripts: QueueScripts, tenant: str = "") -> int:
        code, seconds = scripts.enqueue("x", tenant, max_jobs=0)
        assert code == FLEET_FULL
        assert 1 <= seconds <= MAX_RETRY_S
        return int(seconds)

    def test_retry_after_is_what_the_queue_needs(self, scripts):
        fill(scripts, 200, cost=100)
        work(scripts, 10)
        assert self.retry_s(scripts) == pytest.approx(15, abs=2)

    def test_it_has_a_floor_and_a_ceiling(self, scripts):
        assert self.retry_s(scripts) == 1
        fill(scripts, 20, cost=100)
        assert self.retry_s(scripts) == DEFAULT_RETRY_S
        fill(scripts, 400, cost=100)
        work(scripts, 5, num_slots=1)
        assert self.retry_s(scripts) == MAX_RETRY_S

    def test_idle_time_does_not_count_as_slow(self, scripts):
        fill(scripts, 200, cost=100)
        work(scripts, 30)
        assert scripts.client.zcard(scripts.queue) == 0
        scripts.advance(HOUR_MS)
        fill(scripts, 160, cost=100)
        assert self.retry_s(scripts) == pytest.approx(20, abs=3)
        scripts.advance(1000)
        assert self.retry_s(scripts) <= 25

    def test_a_light_load_says_nothing_of_what_the_workers_can_do(self, scripts):
        """One job at a time, for minutes, where the workers could run a hundred."""
        for number in range(200):
            scripts.enqueue(f"light{number}", cost=100)
            scripts.advance(2)
            (job,) = scripts.claim(free=100)
            scripts.advance(1000)
            scripts.finish(job)
        fill(scripts, 300, cost=100)
        assert self.retry_s(scripts) == DEFAULT_RETRY_S  # nobody knows
        work(scripts, 2, num_slots=100)
        assert self.retry_s(scripts) == 1

    def test_a_change_of_speed_is_learned_within_a_minute(self, scripts):
        fill(scripts, 1500, cost=100)
        work(scripts, 60, num_slots=8)
        work(scripts, 60, num_slots=2)
        jobs_left = scripts.client.zcard(scripts.queue)
        _, wait_ms = scripts.enqueue("x", deadline_ms=1)
        assert wait_ms == pytest.approx(1000 * jobs_left / 4, rel=0.5)

    def test_a_fleet_that_was_away_is_believed_again(self, scripts):
        fill(scripts, 500, cost=100)
        work(scripts, 10)
        scripts.advance(24 * HOUR_MS)
        assert self.retry_s(scripts) == MAX_RETRY_S
        assert scripts.enqueue("x", deadline_ms=1)[1] <= 24 * HOUR_MS
        work(scripts, 40)
        _, wait_ms = scripts.enqueue("x", deadline_ms=1)
        assert wait_ms == pytest.approx(1000 * scripts.client.zcard(scripts.queue) / 8, rel=0.7)

    @pytest.mark.parametrize("num_slots", [1, 8, 32])
    def test_the_expected_wait_is_what_a_job_then_waits(self, scripts, num_slots):
        sizes = random.Random(num_slots)
        for number in range(12 * num_slots):
            scripts.enqueue(f"early{number}", cost=sizes.randint(50, 2000))
        work(scripts, 4, num_slots=num_slots)
        _, wait_ms = scripts.enqueue("x", cost=100, deadline_ms=1)
        scripts.enqueue("x", cost=100)
        began_ms = scripts.now_ms
        while True:
            taken = scripts.claim(free=num_slots)
            if "x" in {job.id for job in taken}:
                break
            scripts.advance(500)
            for job in taken:
                scripts.finish(job, used=1)
        assert scripts.now_ms - began_ms == pytest.approx(wait_ms, rel=0.35, abs=1000)

    def test_the_place_in_the_queue_and_its_wait_are_told(self, scripts):
        fill(scripts, 200, cost=100)
        work(scripts, 10)
        waiting = [
            name.decode() for name in scripts.client.zrange(scripts.key("class:default"), 0, -1)
        ]
        first, last = scripts.status(waiting[0]), scripts.status(waiting[-1])
        assert (first[3], last[3]) == (1, 120)
        assert first[4] < 300
        assert last[4] == pytest.approx(15_000, rel=0.1)


class TestIdempotency:
    def enqueue(self, scripts: QueueScripts, job_id: str, digest: str = "d", tenant: str = "a"):
        return scripts.enqueue(job_id, tenant, key="k", digest=digest)

    def test_the_same_body_gets_the_same_job(self, scripts):
        assert self.enqueue(scripts, "j")[0] == ADMITTED
        assert self.enqueue(scripts, "other") == [SAME_KEY, b"j"]
        assert scripts.client.exists("job:other") == 0

    def test_another_body_is_a_conflict(self, scripts):
        self.enqueue(scripts, "j")
        assert self.enqueue(scripts, "other", "e") == [KEY_CONFLICT]

    def test_another_tenants_key_is_another_key(self, scripts):
        self.enqueue(scripts, "j")
        assert self.enqueue(scripts, "other", "e", "b")[0] == ADMITTED

    def test_a_lost_reply_is_no_repetition(self, scripts):
        self.enqueue(scripts, "j")
        assert self.enqueue(scripts, "j") == [TAKEN]

    def test_a_repetition_is_not_refused_by_any_bound(self, scripts):
        self.enqueue(scripts, "j")
        terms = {"max_jobs": 1, "tenant_jobs": 1, "requests_per_min": 1, "deadline_ms": 1}
        reply = scripts.enqueue("other", "a", key="k", digest="d", **terms)
        assert reply == [SAME_KEY, b"j"]

    @pytest.mark.parametrize("gone", ["idem:a:k", "job:j"])
    def test_what_expired_is_forgotten(self, scripts, gone):
        self.enqueue(scripts, "j")
        scripts.client.delete(gone)
        assert self.enqueue(scripts, "other", "e")[0] == ADMITTED

    def test_a_job_that_was_made_unreadable_answers_for_nothing(self, scripts):
        self.enqueue(scripts, "j")
        scripts.client.hdel("job:j", "spec")
        assert self.enqueue(scripts, "other")[0] == ADMITTED


class TestNames:
    def test_a_colon_in_a_name_does_not_mix_tenants(self, scripts):
        names = ["a", "a:b", "default:a", "", ":", "ü\x00 \n", "*"]
        for number, tenant in enumerate(names):
            assert scripts.enqueue(f"x:{number}:ü", tenant, cost=2000)[0] == ADMITTED
        taken = [job.id for job in scripts.claim(free=9)]
        assert taken == [f"x:{number}:ü" for number in range(len(names))]
        for job_id in taken:
            assert scripts.release(job_id, "w:1") == 1
        assert scripts.client.hlen(scripts.key("tenants")) == 0

    def test_large_numbers_stay_whole(self, scripts):
        for number in range(3):
            scripts.enqueue(f"j{number}", cost=10**12, prompt_tokens=10**12, max_tokens=10**13)
        job = scripts.claim()[0]
        assert job.queued_ms == scripts.now_ms
        assert scripts.sums()["cost:default"] == 2 * 10**12
        scripts.finish(job, used=1)
        assert scripts.enqueue("x", max_jobs=1) == [FLEET_FULL, DEFAULT_RETRY_S]


class TestOtherVersions:
    """A process of the version before puts jobs into the queue alone and keeps no books."""

    def enqueue_old(self, scripts: QueueScripts, job_id: str) -> None:
        scripts.client.hset(f"job:{job_id}", mapping={"spec": b"s", "queued_ms": scripts.now_ms})
        scripts.client.zadd(scripts.queue, {job_id: scripts.now_ms})

    def test_their_jobs_are_served_in_turn(self, scripts):
        self.enqueue_old(scripts, "old")
        scripts.advance(1)
        scripts.enqueue("new")
        claims = scripts.claim(free=2)
        assert [(job.id, job.attempt) for job in claims] == [("old", 1), ("new", 1)]
        for job in claims:
            scripts.finish(job, used=5)
        assert scripts.claim() == []
        left = {key.decode() for key in scripts.client.keys(f"{scripts.queue}*")}
        assert left <= {scripts.key("sums")}

    def test_what_their_workers_run_is_left_to_them(self, scripts):
        self.enqueue_old(scripts, "old")
        scripts.client.set(contract.lease_key("old"), "w0:1", px=HOUR_MS)
        assert scripts.claim(free=5) == []
        scripts.client.delete(contract.lease_key("old"))  # the worker died
        scripts.advance(2 * HOUR_MS)
        assert [job.id for job in scripts.claim(free=5)] == ["old"]

    def test_what_they_took_of_ours_is_not_served_again(self, scripts):
        scripts.enqueue("j", "a", is_followed=True)
        scripts.client.set(contract.lease_key("j"), "w0:1", px=HOUR_MS)
        assert scripts.claim(free=5) == []
        scripts.client.delete(contract.lease_key("j"))
        scripts.client.zrem(scripts.queue, "j")  # and it ended there
        scripts.advance(2 * HOUR_MS)
        assert scripts.claim(free=5) == []
        assert scripts.client.hlen(scripts.key("tenants")) == 0
        assert scripts.client.zscore("chores", "ended:j") is not None

    def test_what_they_cancelled_is_not_served(self, scripts):
        scripts.enqueue("j", "a")
        scripts.enqueue("k", "a")
        scripts.client.zrem(scripts.queue, "j")
        assert [job.id for job in scripts.claim(free=5)] == ["k"]
        assert scripts.client.hgetall(scripts.key("tenants")) == {b"a": b"1"}

    def test_their_jobs_can_be_cancelled_and_looked_at(self, scripts):
        self.enqueue_old(scripts, "old")
        assert scripts.status("old")[3:5] == [0, -1]
        failed = contract.encode(contract.Failed(0, "cancelled", ""))
        assert scripts.cancel("old", failed) == 1
        assert scripts.claim() == []

    def test_a_class_that_we_do_not_know_is_the_default_one(self, scripts):
        self.enqueue_old(scripts, "odd")
        scripts.client.hset("job:odd", "class", "urgent")
        assert [job.service_class for job in scripts.claim()] == ["default"]


def test_ten_thousand_against_a_bound_of_two_thousand(scripts):
    """Refusals cost less than admissions, from the first to the last, and take no memory."""
    spent_s: dict[int, list[float]] = {ADMITTED: [], FLEET_FULL: []}
    memory = 0
    for number in range(10_000):
        began_s = time.perf_counter()
        reply = scripts.enqueue(f"j{number}", f"t{number % 10}", cost=500, max_jobs=2000)
        spent_s[reply[0]].append(time.perf_counter() - began_s)
        assert reply[0] == ADMITTED or 1 <= reply[1] <= MAX_RETRY_S
        if number == 2000:
            memory = scripts.client.info("memory")["used_memory"]
    refused = spent_s[FLEET_FULL]
    assert (len(spent_s[ADMITTED]), len(refused)) == (2000, 8000)
    assert statistics.median(refused) < statistics.median(spent_s[ADMITTED])
    assert sorted(refused)[7920] < 0.05
    assert statistics.median(refused[-1000:]) < 2 * statistics.median(refused[:1000])
    assert scripts.client.info("memory")["used_memory"] < memory + 200_000
