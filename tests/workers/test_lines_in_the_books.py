"""What does not belong into the books stays out: lines of batches, and jobs that Redis lost."""

from collections.abc import Iterator

import pytest

from tests.workers.queue_scripts import QueueScripts
from workers import contract

ADMITTED, TENANT_FULL = 1, -2


@pytest.fixture
def scripts(redis_url: str) -> Iterator[QueueScripts]:
    scripts = QueueScripts(redis_url)
    yield scripts
    scripts.client.close()


def bucket(scripts: QueueScripts) -> float:
    return float(scripts.client.hget(contract.limit_key("a"), "tokens"))


def test_a_job_that_was_not_charged_gives_its_tenant_nothing_back(scripts):
    scripts.enqueue("own", "a", cost=900, tokens_per_min=1000)
    scripts.enqueue("line", "a", "batch", cost=800, is_line=True)
    own, line = scripts.claim(free=2)
    scripts.finish(line, used=10)
    assert bucket(scripts) == 100
    scripts.finish(own, used=100)
    assert bucket(scripts) == 900


def test_lines_of_a_batch_take_no_place_of_their_tenant(scripts):
    for number in range(5):
        terms = {"is_line": True}
        assert scripts.enqueue(f"line-{number}", "a", "batch", **terms)[0] == ADMITTED
    for number in range(2):
        assert scripts.enqueue(f"own-{number}", "a", tenant_jobs=2)[0] == ADMITTED
    assert scripts.enqueue("own-2", "a", tenant_jobs=2)[0] == TENANT_FULL
    for job in scripts.claim(free=10):
        scripts.finish(job)
    assert scripts.client.keys(f"{scripts.queue}*") == []
    assert scripts.enqueue("own-2", "a", tenant_jobs=1)[0] == ADMITTED


def test_a_dead_letter_whose_record_was_lost_leaves_no_record_that_never_expires(scripts):
    scripts.enqueue("j")
    (job,) = scripts.claim()
    scripts.client.delete(contract.job_key("j"))
    keys = [contract.lease_key("j"), scripts.queue, contract.arq_job_key("j")]
    keys += [contract.arq_retry_key("j"), contract.job_key("j"), contract.log_key("j")]
    args = [f"w:{job.attempt}", "j", "dead", "wake", 60_000, -1, "engine_crashed"]
    assert scripts.script("release", keys, args) == 1
    assert scripts.client.exists(contract.job_key("j")) == 0
