"""What queue and relay cost: a scripted engine behind API, Redis and worker, or in one process.

`python tests/bench/relay.py [--out FILE]` prints one table and appends a JSON line to FILE.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from engine.config import EngineConfig, SamplingParams  # noqa: E402
from engine.messages import SequenceRequest  # noqa: E402
from engine.text.detokenizer import Detokenizer  # noqa: E402
from engine.text.text_model import load_text_model  # noqa: E402
from engine.weights.files import ModelRef, resolve  # noqa: E402
from tests.bench.deployment import Deployment  # noqa: E402
from tests.bench.report import report  # noqa: E402
from tests.bench.sse_client import Stream, request_bytes  # noqa: E402
from tests.scripted_engine import load_engine  # noqa: E402

MESSAGES = [{"role": "user", "content": "What is Tramontane?"}]
SEED = 7


def body(num_tokens: int, seed: int = SEED) -> dict[str, object]:
    return {
        "model": "any",
        "messages": MESSAGES,
        "seed": seed,
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "stream": True,
    }


class OneProcess:
    """The yardstick: the same tokenizer, engine and detokenizer, called directly."""

    def __init__(self) -> None:
        files = resolve(ModelRef(model="builtin"))
        self.text = load_text_model(files)
        assert self.text.chat_template is not None
        self.template = self.text.chat_template
        self.engine = load_engine(files, EngineConfig(), lambda done, total: None)

    def generate(self, num_tokens: int, seed: int = SEED) -> tuple[float, str]:
        """Milliseconds to the first token, and the text."""
        began = time.perf_counter()
        prompt = self.template.render(MESSAGES)
        ids = self.text.tokenizer.encode(prompt, add_special_tokens=False)
        params = SamplingParams(max_tokens=num_tokens, seed=seed, ignore_eos=True)
        self.engine.add(SequenceRequest(id="one", prompt_ids=ids, params=params))
        detokenizer = Detokenizer(self.text.tokenizer)
        first_ms, parts = 0.0, []
        while self.engine.has_work():
            for output in self.engine.step():
                parts.append(detokenizer.push(output.token_ids))
                first_ms = first_ms or (time.perf_counter() - began) * 1000
        return first_ms, "".join(parts) + detokenizer.flush()


async def first_token_ms(port: int) -> float:
    stream = Stream()
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: stream, "127.0.0.1", port)
    began = time.perf_counter()
    stream.send(request_bytes(body(2)))
    await stream.done
    return (stream.first_text_s - began) * 1000


async def measure_first_token(port: int, yardstick: OneProcess, rounds: int) -> dict[str, float]:
    """Medians and 99th percentiles, taken alternately so that noise hits both."""
    through, direct = [], []
    for _ in range(20):
        await first_token_ms(port)
    for _ in range(rounds):
        direct.append(yardstick.generate(2)[0])
        through.append(await first_token_ms(port))
        await asyncio.sleep(0.01)
    return {
        "direct_p50_ms": statistics.median(direct),
        "through_p50_ms": statistics.median(through),
        "added_p50_ms": statistics.median(through) - statistics.median(direct),
        "added_p99_ms": statistics.quantiles(through, n=100)[98] - statistics.median(direct),
    }


async def measure_throughput(
    deployment: Deployment, yardstick: OneProcess, num_streams: int, num_tokens: int
) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    streams = [Stream() for _ in range(num_streams)]
    for stream in streams:
        await loop.create_connection(lambda s=stream: s, "127.0.0.1", deployment.port)  # type: ignore[misc]
    cpu = deployment.cpu_s()
    began = time.perf_counter()
    for number, stream in enumerate(streams):
        stream.send(request_bytes(body(num_tokens, seed=number)))
    await asyncio.gather(*(stream.done for stream in streams))
    wall_s = time.perf_counter() - began
    tokens = num_streams * num_tokens
    used = {name: now - cpu[name] for name, now in deployment.cpu_s().items()}
    wrong = sum(s.text() != yardstick.generate(num_tokens, n)[1] for n, s in enumerate(streams))
    disordered = sum(s.event_ids() != sorted(set(s.event_ids())) for s in streams)
    return {
        "tokens_per_s": tokens / wall_s,
        "streams_with_wrong_text": wrong,
        "streams_out_of_order": disordered,
        **{f"{name}_cpu_ms_per_1k": 1e6 * s / tokens for name, s in used.items()},
    }


async def measure_idle(deployment: Deployment, seconds: float) -> float:
    """CPU of all processes together, in percent of one core."""
    await asyncio.sleep(1)
    before = sum(deployment.cpu_s().values())
    await asyncio.sleep(seconds)
    return 100 * (sum(deployment.cpu_s().values()) - before) / seconds


async def run(options: argparse.Namespace) -> dict[str, float]:
    os.environ["SCRIPTED_STEP_MS"] = str(options.step_ms)
    yardstick = OneProcess()
    with tempfile.TemporaryDirectory(prefix="tr-bench-") as directory:
        result: dict[str, float] = {}
        with Deployment(Path(directory), step_ms=options.step_ms, max_seqs=options.streams) as up:
            result |= await measure_first_token(up.port, yardstick, options.rounds)
            result["idle_cpu_percent"] = await measure_idle(up, options.idle_s)
            result["api_rss_mb"] = up.api_rss_mb()
            os.environ["SCRIPTED_STEP_MS"] = "0"
            yardstick = OneProcess()
            rates = [
                await measure_throughput(up, yardstick, options.streams, options.tokens)
                for _ in range(3)
            ]
            result |= sorted(rates, key=lambda r: r["tokens_per_s"])[1]
            for bad in ("streams_with_wrong_text", "streams_out_of_order"):
                result[bad] = sum(r[bad] for r in rates)
            result["api_rss_after_mb"] = up.api_rss_mb()
    return result


TARGETS = {
    "added_p50_ms": "<= 8",
    "tokens_per_s": ">= 15000",
    "idle_cpu_percent": "< 1",
    "api_rss_mb": "< 120",
    "api_rss_after_mb": "< 120",
    "streams_with_wrong_text": "0",
    "streams_out_of_order": "0",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--step-ms", type=float, default=10.0)
    parser.add_argument("--idle-s", type=float, default=10.0)
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    result = uvloop.run(run(options))
    report("relay", result, TARGETS, options)
    if result["streams_with_wrong_text"] or result["streams_out_of_order"]:
        sys.exit("a stream was incomplete or out of order")


if __name__ == "__main__":
    main()
