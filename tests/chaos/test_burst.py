"""Case 12: far more requests at once than the queue holds."""

import asyncio
import statistics
import sys
import time

import pytest

from tests.chaos.client import CHAT, Stream, request
from tests.chaos.crowd import question
from tests.chaos.verdict import check


async def burst(fleet, oracle, *, size, bound):
    """Ask `size` questions at once of a fleet that takes `bound`; print what refusals took."""
    before_mb = max(node.rss_mb() for node in fleet.apis)
    streams = [Stream(fleet.ports, question(n, 10), first=n) for n in range(size)]
    refusals, took_s = [], []
    gate = asyncio.Semaphore(bound + 256)  # descriptors

    async def ask(stream):
        async with gate:
            began_s = time.monotonic()
            answer = await request(
                stream.ports[stream.first % len(stream.ports)], "POST", CHAT, stream.body
            )
            try:
                if answer.status != 200:
                    refusals.append((answer.status, answer.headers, await answer.body()))
                    took_s.append(time.monotonic() - began_s)
                    return
                stream.job_id = answer.headers["x-job-id"]
                await stream._listen(answer)
            finally:
                answer.close()

    await asyncio.gather(*map(ask, streams))
    accepted = [stream for stream in streams if stream.job_id]
    check(accepted, oracle)
    assert len(accepted) + len(refusals) == size
    for status, headers, body in refusals:
        assert status in (429, 503), body
        assert 1 <= int(headers["retry-after"]) <= 120
    grown_mb = max(node.rss_mb() for node in fleet.apis) - before_mb
    p99_ms = 1000 * statistics.quantiles(took_s, n=100)[98]
    sys.stdout.write(
        f"{size} at once against {bound}: {len(accepted)} accepted, {len(refusals)} refused, "
        f"p50 {1000 * statistics.median(took_s):.0f} ms, p99 {p99_ms:.0f} ms, "
        f"API +{grown_mb:.0f} MB\n"
    )
    return accepted, grown_mb


async def test_case_12_a_burst_beyond_the_bound_is_refused_and_loses_nothing(start_fleet, oracle):
    bound = 200
    # The first job ends seconds after the last question came, so that hardly more can be accepted.
    fleet = start_fleet(apis=2, TRAMONTANE_MAX_QUEUE=str(bound), SCRIPTED_STEP_MS="300")
    accepted, grown_mb = await burst(fleet, oracle, size=1000, bound=bound)
    assert bound <= len(accepted) < 2 * bound
    assert grown_mb < 60


@pytest.mark.nightly
@pytest.mark.timeout(600)
async def test_case_12_ten_thousand_against_two_thousand(start_fleet, oracle):
    fleet = start_fleet(
        apis=2,
        workers=2,
        TRAMONTANE_MAX_QUEUE="2000",
        TRAMONTANE_MAX_SEQS="512",
        SCRIPTED_STEP_MS="500",
    )
    accepted, grown_mb = await burst(fleet, oracle, size=10_000, bound=2000)
    assert len(accepted) >= 2000
    assert grown_mb < 150
