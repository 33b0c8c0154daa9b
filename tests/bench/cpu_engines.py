"""Engines in processes of their own, asked in turns. Knows the wire of tests/bench/cpu.py only."""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
Figures = tuple[float, float]


class Crashed(Exception):
    """An engine's process ended before it answered."""


class Process:
    """An engine with its model, from the start of its program. Raises Crashed, as `ask` does.

    `load_s` is what loading took, `memory` in bytes what the process has more than before, after
    a short prompt and without the KV cache.
    """

    def __init__(self, command: Sequence[str], num_threads: int) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), str(num_threads))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **threads, "RUST_LOG": "off"},
        )
        self._answer()  # it has imported what it needs
        before, start = self._resident(), time.perf_counter()
        cache_bytes = self._answer()["cache_bytes"]
        self.load_s = time.perf_counter() - start
        self.ask("prefill 16")
        self.memory = self._resident() - before - cache_bytes

    def ask(self, command: str) -> tuple[float, float, int]:
        """Wall seconds, CPU seconds and tokens of a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        wall, cpu, num_tokens = self._answer()
        return wall, cpu, num_tokens

    def end(self) -> None:
        """Its input ends, and so it does."""
        self._process.communicate(timeout=60)

    def _resident(self) -> int:
        rss: int = psutil.Process(self._process.pid).memory_info().rss
        return rss

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate(timeout=60)
            raise Crashed(f"its process ended with {self._process.returncode}")
        return json.loads(line)


def run_in_turns(
    engines: Mapping[str, Process], command: str, repeats: int, seconds: float
) -> tuple[dict[str, Figures], dict[str, Crashed]]:
    """Of each engine the median tokens a second and the least CPU milliseconds a token; crashes.

    One that has spent `seconds` on the command, the prompts before it included, has no more turns.
    """
    runs: dict[str, list[tuple[float, float, int]]] = {name: [] for name in engines}
    spent = dict.fromkeys(engines, 0.0)
    crashes: dict[str, Crashed] = {}
    for _ in range(repeats):
        for name, engine in engines.items():
            if name in crashes or spent[name] > seconds:
                continue
            start = time.perf_counter()
            try:
                runs[name].append(engine.ask(command))
            except Crashed as crash:
                crashes[name] = crash
            spent[name] += time.perf_counter() - start
    return {name: _figures(runs[name]) for name in engines if runs[name]}, crashes


def _figures(runs: Sequence[tuple[float, float, int]]) -> Figures:
    num_tokens = runs[0][2]
    speed = num_tokens / median(wall for wall, _, _ in runs)
    return speed, 1e3 * min(cpu for _, cpu, _ in runs) / num_tokens
