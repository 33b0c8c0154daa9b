"""The results of the GPU bench: where they are from, as JSON and as a table in markdown."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import torch

from tests.bench.on_gpu.row import Row
from tests.bench.on_gpu.targets import TARGETS, Target

ROOT = Path(__file__).parents[3]
NO_MEASUREMENT = (
    "**No measurement**: small shapes, kernels in the interpreter, on a CPU. It shows that "
    "everything runs."
)
_FROM = "By `tests/bench/gpu.py`, whose docstring says what the figures are."
_HEAD = "| what | measured | floor | share | error | |\n|---|---|---|---|---|---|"
_PACKAGES = ("torch", "triton", "transformers")
_GPU_FIELDS = ("name", "driver_version", "memory.total", "clocks.max.sm", "clocks.max.memory")


class Results(msgspec.Struct, kw_only=True):
    """Of one run, so far."""

    is_measurement: bool
    origin: dict[str, str]
    options: dict[str, Any]
    seconds: dict[str, float] = {}  # of each part
    rows: list[Row] = []

    def write(self, path: Path) -> None:
        """JSON to `path`, the table beside it."""
        plain = {"bench": "gpu", **msgspec.to_builtins(self)}
        targets = {each.name: each.measured(self._counting) for each in TARGETS}
        text = json.dumps(plain | {"targets": targets}, indent=1, ensure_ascii=False)
        path.write_text(f"{text}\n")
        path.with_suffix(".md").write_text(self.table())

    def table(self) -> str:
        """The targets, then each part."""
        parts = [_FROM, *([] if self.is_measurement else [NO_MEASUREMENT])]
        parts.append(_targets(self._counting))
        for part, seconds in self.seconds.items():
            lines = [_line(row) for row in self.rows if row.part == part]
            parts.append("\n".join([f"## {part}, {seconds:.0f} s\n", _HEAD, *lines]))
        parts.append("; ".join(f"{name} {value}" for name, value in self.origin.items()))
        return "\n\n".join(parts) + "\n"

    @property
    def _counting(self) -> list[Row]:
        """What says something of targets."""
        return self.rows if self.is_measurement else []

    @property
    def is_good(self) -> bool:
        """Whether nothing was wrong and nothing failed."""
        return all(row.state not in ("wrong", "failed") for row in self.rows)


def _targets(rows: Sequence[Row]) -> str:
    lines = ["| target | asked | measured | |", "|---|---|---|---|"]
    return "\n".join([*lines, *(_target(each, each.measured(rows)) for each in TARGETS)])


def _target(target: Target, measured: float | None) -> str:
    shown = "" if measured is None else target.shown(measured)
    verdict = "" if measured is None else "met" if measured >= target.asked else "**missed**"
    return f"| {target.name} | {target.shown(target.asked)} | {shown} | {verdict} |"


def _line(row: Row) -> str:
    value = "" if row.value is None else f"{_number(row.value)} {row.unit}"
    floor = "" if row.floor is None else _number(row.floor)
    share = "" if row.share is None else f"{100 * row.share:.0f} %"
    error = "" if row.error is None else f"{row.error:.1e}"
    if row.state == "wrong" and row.bound is not None:
        error += f" > {row.bound:.1e}"
    state = "" if row.state in ("measured", "checked") else f"**{row.state}** "
    cells = (row.name, value, floor, share, error, f"{state}{row.note}".strip())
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def origin(device: str, commit: str) -> dict[str, str]:
    """Commit, machine and versions."""
    found = {
        "commit": commit or _said("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "CPU": f"{os.cpu_count()} cores, {platform.machine()}",
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES if _is_there(name)},
    }
    if device == "cuda":
        query = f"--query-gpu={','.join(_GPU_FIELDS)}"
        found["CUDA"] = torch.version.cuda or ""
        gpus = _said("nvidia-smi", query, "--format=csv,noheader").splitlines()
        found |= dict(zip(_GPU_FIELDS, gpus[0].split(", "), strict=False)) if gpus else {}
    return {name: value or "unknown" for name, value in found.items()}


def _is_there(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def _said(program: str, *arguments: str) -> str:
    """What a program prints; nothing where there is none, or where it fails."""
    if shutil.which(program) is None:
        return ""
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
