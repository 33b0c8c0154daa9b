"""The CPU engine beside llama.cpp on the same GGUF files, in turns, in one run.

    python tests/bench/cpu.py --peer-python VENV/bin/python [--shapes …] [--mixtures …] [--out FILE]

Files of random weights are made in a temporary directory. Each engine has the model in a process
of its own; the commands go to one, then to the other, `--repeats` times. A figure is tokens a
second by the wall clock, of the run at the first quartile of its seconds (what a busy machine
spoils least without being the luckiest); `cpu_ms` is the least CPU time, of all threads, for a
token. `memory` is what a process has more than before it loaded, over the file's bytes, the KV
cache left out. The other engine needs an environment with llama-cpp-python, whose path is given;
without one it is left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.cpu_files import MIXTURES, SHAPES, write_random  # noqa: E402
from tests.bench.report import report  # noqa: E402

COMMANDS = {
    "prefill 512": "prefill 512",
    "decode 1": "decode 1 32 16",
    "decode 8": "decode 8 16 16",
    "decode 16": "decode 16 8 16",
    "decode 1 at 1024": "decode 1 16 1024",
}
CACHE_BYTES = 512 << 20


class Ours:
    """Our engine under the commands of this bench."""

    def __init__(self, path: str, num_threads: int, activations: str) -> None:
        import torch

        from engine.config import EngineConfig
        from engine.engine import load_engine
        from engine.weights.files import ModelRef, resolve

        config = EngineConfig(
            device="cpu",
            max_seqs=16,
            max_model_len=2048,
            kv_cache_bytes=CACHE_BYTES,
            enable_prefix_cache=False,
            num_threads=num_threads,
            cpu_activations=activations,  # type: ignore[arg-type]
        )
        torch.zeros(1) @ torch.zeros(1)
        before = psutil.Process().memory_info().rss
        self._engine = load_engine(resolve(ModelRef(model=path)), config)
        self.memory = psutil.Process().memory_info().rss - before - CACHE_BYTES
        self._random = torch.Generator().manual_seed(0)
        self._number = 0

    def prefill(self, num_tokens: int) -> tuple[float, float, int]:
        """Wall and CPU seconds of one prompt, and its tokens."""
        self._add(num_tokens, 1)
        return *self._timed(1), num_tokens

    def decode(self, num_seqs: int, num_steps: int, context: int) -> tuple[float, float, int]:
        """The same of some steps of sequences that have `context` tokens."""
        for _ in range(num_seqs):
            self._add(context, num_steps + 1)
        self._engine.step()
        assert self._engine.stats().running == num_seqs
        figures = self._timed(num_steps)
        assert not self._engine.has_work()
        return *figures, num_seqs * num_steps

    def _add(self, num_tokens: int, max_tokens: int) -> None:
        import torch

        from engine.config import SamplingParams
        from engine.messages import SequenceRequest

        vocab = self._engine.info.vocab_size
        ids = torch.randint(10, vocab, (num_tokens,), generator=self._random).tolist()
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        self._number += 1
        self._engine.add(SequenceRequest(id=str(self._number), prompt_ids=ids, params=params))

    def _timed(self, num_steps: int) -> tuple[float, float]:
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(num_steps):
            self._engine.step()
        return time.perf_counter() - start, time.process_time() - cpu


def serve(path: str, num_threads: int, activations: str) -> None:
    """A command a line in, its figures a line out."""
    start = time.perf_counter()
    ours = Ours(path, num_threads, activations)
    figures = {"memory": ours.memory, "start_s": time.perf_counter() - start}
    print(json.dumps(figures), flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        print(json.dumps(getattr(ours, name)(*map(int, arguments))), flush=True)


class Process:
    """An engine in a process of its own."""

    def __init__(self, command: Sequence[str], num_threads: int) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(num_threads)},
        )
        self.ready = self._answer()

    def ask(self, command: str) -> tuple[float, float, int]:
        """What `Ours` and the peer's program answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        wall, cpu, num_tokens = self._answer()
        return wall, cpu, num_tokens

    def end(self) -> None:
        """Its input ends, and so it does."""
        self._process.communicate(timeout=60)

    def _answer(self):
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def compare(path: Path, args: argparse.Namespace) -> dict[str, float]:
    """All figures of one file."""
    given = [str(path), str(args.threads)]
    programs = {"ours": [sys.executable, __file__, "--serve", *given, args.activations]}
    if args.peer_python:
        peer = str(Path(__file__).with_name("cpu_peer.py"))
        programs["llama.cpp"] = [args.peer_python, peer, *given]
    engines = {name: Process(command, args.threads) for name, command in programs.items()}
    ready = engines["ours"].ready
    memory = ready["memory"] / path.stat().st_size
    result = {"memory": memory, "start_s": ready["start_s"]}
    for label, command in COMMANDS.items():
        runs: dict[str, list[tuple[float, float, int]]] = {name: [] for name in engines}
        for _ in range(args.repeats):
            for name, engine in engines.items():
                runs[name].append(engine.ask(command))
        for name, figures in runs.items():
            walls = sorted(wall for wall, _, _ in figures)
            num_tokens = figures[0][2]
            result[f"{label} {name}"] = num_tokens / walls[len(walls) // 4]
            cpu_ms = 1e3 * min(cpu for _, cpu, _ in figures) / num_tokens
            result[f"{label} {name} cpu_ms"] = cpu_ms
        if len(engines) > 1:
            result[f"{label} ratio"] = result[f"{label} ours"] / result[f"{label} llama.cpp"]
    for engine in engines.values():
        engine.end()
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", default="", help="of an environment with llama-cpp-python")
    parser.add_argument("--shapes", default="qwen3-0.6b")
    parser.add_argument("--mixtures", default=",".join(MIXTURES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count())
    parser.add_argument("--activations", default="auto")
    parser.add_argument("--out", default="", help="adds the results to this file")
    parser.add_argument("--directory", default="", help="keeps the files here")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve[0], int(args.serve[1]), args.serve[2])
        return
    del args.serve
    result: dict[str, float] = {"load average": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(args.directory or temporary)
        for shape in args.shapes.split(","):
            for mixture in args.mixtures.split(","):
                path = directory / f"{shape}.{mixture}.gguf"
                if not path.exists():
                    write_random(path, SHAPES[shape], mixture)
                figures = compare(path, args)
                result |= {f"{shape} {mixture} {name}": value for name, value in figures.items()}
    args.peer_python = bool(args.peer_python)
    report("cpu", result, {}, args)


if __name__ == "__main__":
    main()
