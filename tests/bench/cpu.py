"""The CPU engine beside llama.cpp and mistral.rs on the same GGUF files, in turns, in one run.

    python tests/bench/cpu.py [--llama-python VENV/bin/python] [--mistralrs-python …] [--out FILE]

Files of random weights are made in a temporary directory. Each engine has the model in a process
of its own; a command goes to one after the other, `--repeats` times, though an engine that has
spent `--seconds` on it is left in peace. Figures are medians of tokens a second by the wall clock.
`memory` is what a process has more than before it loaded, after a first prompt and without the KV
cache, over the file's bytes. A ratio is our speed over the better peer's, or the better peer's
memory or time over ours: above 1 we are ahead. The JSON lines have the least CPU time, of all
threads, for a token too (`cpu_ms`).

The peers are those that the Pythons given can import, by default this one: `make bench-cpu`
installs them, for which it takes a C++ compiler and a quarter of an hour. The default run is some
12 minutes of two cores; `--shapes tiny --repeats 1` shows in one that everything works.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.cpu_engines import Crashed, Process, run_in_turns  # noqa: E402
from tests.bench.cpu_files import MIXTURES, SHAPES, write_random  # noqa: E402
from tests.bench.cpu_table import table  # noqa: E402
from tests.bench.report import record  # noqa: E402

COMMANDS = {
    "prefill 512": "prefill 512",
    "decode 1": "decode 1 32 16",
    "decode 8": "decode 8 16 16",
    "decode 16": "decode 16 8 16",
    "decode 1 at 1024": "decode 1 16 1024",
}
PEERS = {"llama.cpp": "llama_cpp", "mistral.rs": "mistralrs"}


def programs(args: argparse.Namespace) -> dict[str, list[str]]:
    """Python and script of our engine and of the peers there are."""
    here = Path(__file__)
    found = {"ours": [sys.executable, str(here.with_name("cpu_ours.py"))]}
    pythons = {"llama.cpp": args.llama_python, "mistral.rs": args.mistralrs_python}
    for peer, module in PEERS.items():
        probe = [pythons[peer], "-c", f"import {module}"]
        if subprocess.run(probe, capture_output=True).returncode:
            print(f"{peer} is left out: {pythons[peer]} cannot import {module}", flush=True)
        else:
            found[peer] = [pythons[peer], str(here.with_name(f"cpu_{module}.py"))]
    return found


def compare(path: Path, args: argparse.Namespace) -> dict[str, float]:
    """All figures of one file."""
    given = [str(path), str(args.threads), args.activations]
    engines = {}
    result: dict[str, float] = {}
    for name, program in programs(args).items():
        try:
            engines[name] = engine = Process([*program, *given], args.threads)
        except Crashed as crash:
            _give_up(name, crash)
            continue
        result[f"memory {name}"] = engine.memory / path.stat().st_size
        result[f"load s {name}"] = engine.load_s
    for label, command in COMMANDS.items():
        runs, crashes = run_in_turns(engines, command, args.repeats, args.seconds)
        for name, (speed, cpu_ms) in runs.items():
            result |= {f"{label} {name}": speed, f"{label} {name} cpu_ms": cpu_ms}
        for name, reason in crashes.items():
            _give_up(name, reason)
            del engines[name]
    for engine in engines.values():
        engine.end()
    return result


def _give_up(name: str, crash: Crashed) -> None:
    """The other engines go on without a peer; without ours there is nothing to compare."""
    if name == "ours":
        raise crash
    print(f"{name} is left out from here on: {crash}", flush=True)


def options() -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for peer, module in PEERS.items():
        name = f"--{module.removesuffix('_cpp')}-python"
        parser.add_argument(name, default=sys.executable, help=f"of an environment with {peer}")
    parser.add_argument("--shapes", default="qwen3-0.6b", help=", ".join(SHAPES))
    parser.add_argument("--mixtures", default="Q4_0,Q4_K_M,Q8_0,BF16", help=", ".join(MIXTURES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="for an engine and a figure")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count())
    parser.add_argument("--activations", default="auto")
    parser.add_argument("--out", default="", help="adds the results to this JSON lines file")
    parser.add_argument("--directory", default="", help="keeps the files here")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write the table beside the results."""
    args = options()
    result: dict[str, float] = {"load average": os.getloadavg()[0]}
    models = []
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(args.directory or temporary)
        for shape in args.shapes.split(","):
            for mixture in args.mixtures.split(","):
                path = directory / f"{shape}.{mixture}.gguf"
                if not path.exists():
                    write_random(path, SHAPES[shape], mixture)
                model = f"{shape} {mixture}"
                models.append(model)
                figures = compare(path, args)
                result |= {f"{model} {name}": value for name, value in figures.items()}
                print(table(result, models[-1:], COMMANDS), flush=True)
                if not args.directory:
                    path.unlink()
    # Where the peers were is nobody's business; that they were there, the figures say.
    del args.llama_python, args.mistralrs_python
    text = f"{table(result, models, COMMANDS)}\n\n{record('cpu', result, args)}\n"
    print(text)
    if args.out:
        head = "By `tests/bench/cpu.py`, whose docstring says what the figures are."
        Path(args.out).with_suffix(".md").write_text(f"{head}\n\n{text}")


if __name__ == "__main__":
    main()
