"""What a failure costs: the wait for the next token after a killed and after a stopped worker, and
what a burst far beyond the queue's bound gets.

`python tests/bench/recovery.py [--out FILE]` prints one table and appends a JSON line to FILE.
"""

import argparse
import asyncio
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path

import uvloop

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from engine.text.text_model import load_text_model  # noqa: E402
from engine.weights.files import ModelRef, resolve  # noqa: E402
from tests.bench.keep_alive import Connection  # noqa: E402
from tests.bench.report import report  # noqa: E402
from tests.chaos.crowd import Crowd, question  # noqa: E402
from tests.chaos.fleet import Fleet, Node, eventually, fleet_of  # noqa: E402
from tests.chaos.proxies import Proxies  # noqa: E402
from tests.chaos.verdict import Oracle  # noqa: E402
from tests.scripted_engine import plain_ids  # noqa: E402
from workers import contract  # noqa: E402

STEP_MS = 10.0
BURST_TOKENS = 5  # with the default step longer than the burst: no place gets free within it
ASYNC = {"Prefer": "respond-async"}


def make_oracle() -> Oracle:
    files = resolve(ModelRef(model="builtin"))
    return Oracle(load_text_model(files), plain_ids(files.directory))


async def pauses_s(fleet: Fleet, oracle: Oracle, num_streams: int, *, is_kill: bool) -> list[float]:
    """Per stream that moved: from the signal to its next token. Every text is checked."""
    lease_s = float(fleet.setting("TRAMONTANE_LEASE_S"))
    num_tokens = int((2 * lease_s + 6) * 1000 / STEP_MS) if is_kill else 400
    fleet.heal()
    async with Crowd(fleet, oracle, num_streams, max_tokens=num_tokens) as crowd:
        await crowd.reach(20)
        victim = await crowd.busiest()
        began_s = time.monotonic()
        victim.kill_tree() if is_kill else victim.terminate()
        await crowd.finish(timeout_s=180)
        moved = [s for s in crowd.streams if fleet.attempts(s.job_id) > 1]
        assert moved, "the worker ran nothing"
        await eventually(lambda: not victim.is_alive, "the worker ended")
    # Frames that were on their way come in the first milliseconds; the pause is behind them.
    return [_pause_s([f.at_s for f in s.frames], began_s) for s in moved]


def _pause_s(times: list[float], began_s: float) -> float:
    """From `began_s` to the end of the longest silence behind it."""
    pairs = [(b - a, b) for a, b in pairwise(times) if b > began_s]
    return max(pairs)[1] - began_s


async def measure_moves(
    oracle: Oracle, proxies: Proxies, options: argparse.Namespace
) -> dict[str, float]:
    settings = {
        "TRAMONTANE_LEASE_S": str(options.lease_s),
        "TRAMONTANE_DRAIN_S": "0",
        "SCRIPTED_STEP_MS": str(STEP_MS),
    }
    result: dict[str, float] = {}
    with fleet_of(proxies, apis=2, workers=2, **settings) as fleet:
        for name, is_kill in (("handover", False), ("kill", True)):
            waits = []
            for _ in range(options.rounds):
                waits += await pauses_s(fleet, oracle, options.streams, is_kill=is_kill)
            result[f"{name}_next_token_p50_ms"] = 1000 * statistics.median(waits)
            result[f"{name}_next_token_max_ms"] = 1000 * max(waits)
            result[f"{name}_streams_moved"] = len(waits)
    return result


async def measure_burst(proxies: Proxies, options: argparse.Namespace) -> dict[str, float]:
    """`--burst` jobs from `--clients` connections, as fast as they are answered."""
    settings = {
        "TRAMONTANE_MAX_QUEUE": str(options.bound),
        "TRAMONTANE_MAX_SEQS": "512",
        "SCRIPTED_STEP_MS": str(options.burst_step_ms),
    }
    with fleet_of(proxies, apis=1, workers=1, **settings) as fleet:
        (api,) = fleet.apis
        await submit(api, 50, 4, options.burst)  # warm
        await eventually(lambda: fleet.num_unfinished() == 0, "the warm-up is over", 120)
        before_mb = api.rss_mb()
        began_s = time.perf_counter()
        answers = await submit(api, options.burst, options.clients, 0)
        wall_s = time.perf_counter() - began_s
        accepted = [str(body["id"]) for status, _, body in answers if status == 202]
        refused = [(status, took_s) for status, took_s, _ in answers if status in (429, 503)]
        await eventually(lambda: fleet.num_unfinished() == 0, "all accepted jobs ran", 600)
        done = sum(isinstance(fleet.log_of(job_id)[-1], contract.Done) for job_id in accepted)
        after_mb = api.rss_mb()
    times_ms = [1000 * took_s for _, took_s in refused]
    return {
        "burst_per_s": len(answers) / wall_s,
        "burst_accepted": len(accepted),
        "burst_accepted_done": done,
        "burst_refused": len(refused),
        "burst_other": len(answers) - len(accepted) - len(refused),
        "refusal_p50_ms": statistics.median(times_ms),
        "refusal_p99_ms": statistics.quantiles(times_ms, n=100)[98],
        "api_rss_before_mb": before_mb,
        "api_rss_after_mb": after_mb,
    }


async def submit(
    api: Node, count: int, num_clients: int, first_seed: int
) -> list[tuple[int, float, dict[str, object]]]:
    """Status, seconds and body of each answer."""
    seeds = iter(range(first_seed, first_seed + count))
    answers: list[tuple[int, float, dict[str, object]]] = []

    async def work() -> None:
        async with Connection(api.port) as connection:
            for seed in seeds:
                began_s = time.perf_counter()
                status, body = await connection.post(
                    "/v1/chat/completions", question(seed, BURST_TOKENS), ASYNC
                )
                answers.append((status, time.perf_counter() - began_s, body))

    await asyncio.gather(*(work() for _ in range(num_clients)))
    return answers


async def run(options: argparse.Namespace) -> dict[str, float]:
    oracle = make_oracle()
    proxies = Proxies()
    result: dict[str, float] = {}
    try:
        if options.rounds:
            result |= await measure_moves(oracle, proxies, options)
        if options.burst:
            result |= await measure_burst(proxies, options)
    finally:
        proxies.close()
    return result


def targets(options: argparse.Namespace) -> dict[str, str]:
    return {
        "handover_next_token_max_ms": "<= 300",
        "kill_next_token_max_ms": f"<= {1000 * (options.lease_s + 1):.0f}",
        "burst_accepted": f">= {options.bound}",
        "burst_accepted_done": "= accepted",
        "burst_other": "0",
        "refusal_p99_ms": "< 50",
        "api_rss_after_mb": "as before",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each kind of move; 0: none")
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--lease-s", type=float, default=6.0)
    parser.add_argument("--burst", type=int, default=10_000, help="jobs; 0: no burst")
    parser.add_argument("--bound", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--burst-step-ms", type=float, default=4000.0)
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    result = uvloop.run(run(options))
    report("recovery", result, targets(options), options)
    if result.get("burst_accepted_done") != result.get("burst_accepted"):
        sys.exit("a job that was accepted did not end well")


if __name__ == "__main__":
    main()
