"""Whose turn it is: classes, ageing and deficit round robin, by the scripts in a real server."""

import functools
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.workers.queue_scripts import QueueScripts
from workers.lease import Claimed

QUANTUM = 1024  # of small jobs; the mean job, where that is larger
DEFAULT_START_MS, BATCH_START_MS = 10_000, 600_000
AGED_EVERY = 4


@pytest.fixture
def scripts(redis_url: str) -> Iterator[QueueScripts]:
    scripts = QueueScripts(redis_url)
    yield scripts
    scripts.client.close()


def fill(scripts: QueueScripts, tenant: str, count: int, cost: int, **terms) -> None:
    """Jobs `tenant-0`, `tenant-1` and so on."""
    for number in range(count):
        assert scripts.enqueue(f"{tenant}-{number}", tenant, cost=cost, **terms)[0] == 1


def tenants(claims: list[Claimed]) -> list[str]:
    return [job.id.partition("-")[0] for job in claims]


def serve(
    scripts: QueueScripts, costs: dict[str, int], num_running: int, rounds: int
) -> Counter[str]:
    """Tokens that each tenant really got from workers that run `num_running` jobs at a time.

    A random quarter of the running jobs ends in each round; `costs` is what a tenant's job uses.
    """
    order = random.Random(7)
    running: list[Claimed] = []
    used: Counter[str] = Counter()
    for _ in range(rounds):
        running += scripts.claim(free=num_running - len(running))
        order.shuffle(running)
        for job in running[: max(1, num_running // 4)]:
            (tenant,) = tenants([job])
            used[tenant] += costs[tenant]
            scripts.finish(job, used=costs[tenant])
        running = running[max(1, num_running // 4) :]
    return used


class TestShares:
    @pytest.mark.parametrize(
        "costs", [(100, 100), (100, 900), (300, 5000), (7, 1024), (50, 40_000)], ids=str
    )
    def test_equal_demand_gets_equal_tokens_at_every_moment(self, scripts, costs):
        by_name = dict(zip("ab", costs, strict=True))
        for tenant, cost in by_name.items():
            fill(scripts, tenant, max(6, min(400, 12_000 // cost)), cost)
        mean = max(scripts.sums()["cost:default"] / len(scripts.client.keys("job:*")), QUANTUM)
        total: Counter[str] = Counter()
        while scripts.client.hlen(scripts.key("cost:default")) == 2:
            for tenant in tenants(scripts.claim(free=1)):
                total[tenant] += by_name[tenant]
            # Waiting jobs grow or shrink in the mean, and the quantum with them.
            assert abs(total["a"] - total["b"]) <= 2 * mean + max(costs) + QUANTUM, total
        assert sum(total.values()) > 2000

    def test_three_tenants_share_alike_whatever_they_have(self, scripts):
        costs = {"a": 50, "b": 400, "c": 3000}
        for tenant, cost in costs.items():
            fill(scripts, tenant, 60_000 // cost, cost)
        total: Counter[str] = Counter()
        for _ in range(15):
            for tenant in tenants(scripts.claim(free=16)):
                total[tenant] += costs[tenant]
        assert max(total.values()) - min(total.values()) <= QUANTUM + 3000

    def test_a_flood_delays_a_neighbours_job_by_one_turn(self, scripts):
        fill(scripts, "a", 1000, 300)
        scripts.claim(free=40)
        scripts.enqueue("b-0", "b", cost=300)
        assert "b" in tenants(scripts.claim(free=QUANTUM // 300 + 2))

    def test_many_tenants_with_one_job_each_go_in_the_order_they_came(self, scripts):
        for number in range(200):
            scripts.enqueue(f"t{number}-0", f"t{number}", cost=900)
        assert tenants(scripts.claim(free=200)) == [f"t{number}" for number in range(200)]

    def test_two_workers_in_turn_see_one_order(self, scripts, redis_url):
        costs = {"a": 200, "b": 700, "c": 90}
        for tenant, cost in costs.items():
            fill(scripts, tenant, 40, cost)
        alone = [job.id for job in scripts.claim("w1", free=60)]
        again = QueueScripts(redis_url)
        for tenant, cost in costs.items():
            fill(again, tenant, 40, cost)
        by_turns = [job.id for n in range(60) for job in again.claim(("w1", "w2")[n % 2])]
        again.client.close()
        assert by_turns == alone


class TestDebtAndCredit:
    def test_who_left_in_debt_pays_while_others_wait(self, scripts):
        fill(scripts, "b", 100, 500)
        scripts.enqueue("a-0", "a", cost=20_000)
        while "a" not in tenants(scripts.claim()):
            pass
        scripts.enqueue("a-1", "a", cost=500)
        before = 0
        while "a" not in tenants(scripts.claim()):
            before += 1
        assert (20_000 - 3 * QUANTUM) // 500 <= before <= 20_000 // 500 + 2

    def test_a_debt_is_paid_by_and_by_while_its_tenant_is_away(self, scripts):
        fill(scripts, "b", 100, 500)
        scripts.enqueue("a-0", "a", cost=20_000)
        while "a" not in tenants(scripts.claim()):
            pass
        for _ in range(60):
            scripts.claim()
        scripts.enqueue("a-1", "a", cost=500)
        assert "a" in tenants(scripts.claim(free=5))

    def test_a_debt_ends_when_nobody_waits(self, scripts):
        scripts.enqueue("a-0", "a", cost=1_000_000)
        scripts.claim()
        fill(scripts, "b", 10, 500)
        scripts.enqueue("a-1", "a", cost=500)
        assert "a" in tenants(scripts.claim(free=4))

    def test_what_comes_back_while_nobody_else_waited_makes_no_credit(self, scripts):
        fill(scripts, "a", 60, 5000)
        running = scripts.claim(free=30)
        fill(scripts, "b", 3, 500)
        for job in running:
            scripts.finish(job, used=1)
        assert tenants(scripts.claim(free=8)).count("b") >= 2

    def test_estimates_are_corrected_by_what_was_used(self, scripts):
        """Both ask for 4,000 tokens; one uses a tenth of what the other does."""
        fill(scripts, "a", 1500, 4000)
        fill(scripts, "b", 1500, 4000)
        used = serve(scripts, {"a": 400, "b": 4000}, num_running=8, rounds=300)
        assert used["a"] == pytest.approx(used["b"], rel=0.2)

    def test_jobs_that_used_more_than_they_said_are_charged_for_it(self, scripts):
        fill(scripts, "a", 900, 100)
        fill(scripts, "b", 900, 1000)
        used = serve(scripts, {"a": 1000, "b": 1000}, num_running=4, rounds=300)
        assert used["a"] == pytest.approx(used["b"], rel=0.2)

    def test_what_an_attempt_paid_comes_back_when_it_comes_to_nothing(self, scripts):
        fill(scripts, "b", 40, 500)
        scripts.enqueue("a-0", "a", cost=500)
        while "a" not in tenants(claims := scripts.claim()):
            pass
        before = int(scripts.client.hget(scripts.key("balance:default"), "a"))
        scripts.release("a-0", f"w:{claims[0].attempt}", "hand_back")
        assert int(scripts.client.hget(scripts.key("balance:default"), "a")) == before + 500

    def test_the_ring_forgets_who_owes_nothing(self, scripts):
        for number in range(300):
            scripts.enqueue(f"t{number}-0", f"t{number}", cost=10)
        fill(scripts, "b", 5, 10)
        for number in range(300):
            scripts.cancel(f"t{number}-0", b"\x91\xa1f")
        assert tenants(scripts.claim(free=4)) == ["b"] * 4
        assert scripts.client.lrange(scripts.key("ring:default"), 0, -1) == [b"b"]
        scripts.claim()
        own = {key.decode() for key in scripts.client.keys(f"{scripts.queue}*")}
        assert own == {scripts.queue, *map(scripts.key, ("jobs", "leases", "tenants"))}


class TestClasses:
    def enqueue_each(self, scripts: QueueScripts) -> None:
        for service_class in ("batch", "default", "interactive"):
            scripts.enqueue(service_class, "", service_class)

    def test_the_most_urgent_comes_first(self, scripts):
        self.enqueue_each(scripts)
        claims = scripts.claim(free=3)
        assert [job.id for job in claims] == ["interactive", "default", "batch"]
        assert [job.service_class for job in claims] == ["interactive", "default", "batch"]

    @pytest.mark.parametrize(
        ("later", "earlier", "start_ms"),
        [
            ("default", "interactive", DEFAULT_START_MS),
            ("batch", "interactive", BATCH_START_MS),
            ("batch", "default", BATCH_START_MS - DEFAULT_START_MS),
        ],
    )
    @pytest.mark.parametrize("is_old", [False, True], ids=["younger", "older"])
    def test_a_job_waits_for_no_more_than_its_head_start(
        self, scripts, later, earlier, start_ms, is_old
    ):
        scripts.enqueue("old", "", later)
        scripts.advance(start_ms + (1 if is_old else -1))
        scripts.enqueue("new", "", earlier)
        (first,) = scripts.claim()
        assert first.id == ("old" if is_old else "new")

    def test_a_batch_job_that_has_its_turn_by_age_need_not_give_way(self, scripts):
        scripts.enqueue("old", "", "batch")
        scripts.advance(BATCH_START_MS + 1)
        scripts.enqueue("new", "", "interactive")
        assert [job.service_class for job in scripts.claim()] == ["default"]

    @pytest.mark.parametrize("later", ["default", "batch"])
    def test_a_long_queue_of_old_jobs_does_not_turn_the_order_round(self, scripts, later):
        fill(scripts, "a", 50, 300, service_class=later)
        scripts.advance(2 * BATCH_START_MS)
        fill(scripts, "b", 9, 300, service_class="interactive")
        order = tenants(scripts.claim(free=12))
        assert order.count("b") == 12 - 12 // AGED_EVERY

    def test_spare_places_are_not_for_batch(self, scripts):
        self.enqueue_each(scripts)
        assert [job.id for job in scripts.claim(free=0, spare=5)] == ["interactive", "default"]
        assert scripts.claim(free=0, spare=5) == []
        assert [job.id for job in scripts.claim(free=1, spare=5)] == ["batch"]

    def test_a_spare_place_is_for_an_old_batch_job_while_urgent_ones_wait(self, scripts):
        """A worker that always has urgent work offers no other places."""
        scripts.enqueue("old", "", "batch")
        scripts.advance(BATCH_START_MS + 1)
        assert scripts.claim(free=0, spare=2) == []
        scripts.enqueue("new", "", "interactive")
        taken = scripts.claim(free=0, spare=2)
        assert [(job.id, job.service_class) for job in taken] == [
            ("old", "default"),
            ("new", "interactive"),
        ]

    def test_free_places_are_filled_before_spare_ones(self, scripts):
        fill(scripts, "a", 2, 10, service_class="interactive")
        fill(scripts, "b", 2, 10, service_class="batch")
        assert tenants(scripts.claim(free=1, spare=3)) == ["a", "a"]


def server_us(
    scripts: QueueScripts,
    calls: Sequence[Callable[[], object]],
    typical: Callable[[list[float]], float] = statistics.median,
) -> float:
    """Time that the server spends in a script, in microseconds; `min` for a few like calls."""
    spent: list[float] = []
    for call in calls:
        scripts.client.config_resetstat()
        call()
        spent.append(scripts.client.info("commandstats")["cmdstat_evalsha"]["usec"])
    return typical(spent)


class TestCost:
    """Bounds with room for a busy machine; an idle one needs half of them or less."""

    def test_a_thousand_tenants_wait(self, scripts):
        costs = random.Random(1)
        sizes = [max(1, int(costs.lognormvariate(7, 1.5))) for _ in range(2000)]
        scripts.enqueue("first", "t0")
        scripts.claim()
        enqueues = [
            functools.partial(scripts.enqueue, f"j{n}", f"t{n % 1000}", cost=sizes[n])
            for n in range(2000)
        ]
        enqueue_us = server_us(scripts, enqueues)
        claim_us = server_us(scripts, [lambda: scripts.claim(free=32)] * 20, min)
        running = scripts.claim("r", free=256)
        holders = [(job.id, f"r:{job.attempt}") for job in running]
        renew_us = server_us(scripts, [lambda: scripts.renew(*holders)] * 10, min)
        refuse = [lambda: scripts.enqueue("x", "t1", max_jobs=1)] * 200
        refuse_us = server_us(scripts, refuse)
        assert enqueue_us < 300
        assert claim_us < 5000
        assert renew_us < 5000
        assert refuse_us < 150
