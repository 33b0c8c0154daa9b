"""Prints a bench's figures as a table, and adds them to a file of results as a JSON line."""

import argparse
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def report(
    bench: str, result: Mapping[str, float], targets: Mapping[str, str], options: argparse.Namespace
) -> None:
    """`options.out` names the file; empty: none."""
    print("| figure | measured | target |\n|---|---|---|")
    for name, value in result.items():
        print(f"| {name} | {value:.2f} | {targets.get(name, '')} |")
    print(f"\n{record(bench, result, options)}")


def record(bench: str, result: Mapping[str, float], options: argparse.Namespace) -> str:
    """Add the figures to the file `options.out`, if it names one. Returns where they are from."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()
    machine = (
        f"{psutil.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    )
    given = {name: value for name, value in vars(options).items() if name != "out"}
    if options.out:
        with Path(options.out).open("a") as file:
            line = {"bench": bench, "commit": commit, "machine": machine, **result}
            file.write(json.dumps(line | {"options": given}) + "\n")
    return f"commit {commit}; {machine}; {given}"
