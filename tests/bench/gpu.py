"""The engine on one GPU: kernels, decode steps, throughput, and transformers beside it.

    python tests/bench/gpu.py [--out FILE] [--only decode,kernels] [--engine NAME=VALUE]

Parts, in this order; each case of each is tried by itself, in a process that may crash or hang:

- `ceilings`: copied bytes a second, cuBLAS's bfloat16 products, launches within a graph. Always.
- `decode`: a step of Llama-3-8B's shape with random weights in bfloat16, Q8_0 and Q4_K at batch 1,
  8 and 32, context 1024: its kernels as one graph, which of them take how long, and the engine's
  steps from call to call. The floor is all bytes to read (weights as they lie in memory, keys,
  values) by the copy's rate.
- `transformers`: Qwen3-0.6B's shape, 32 sequences of 256 tokens and 256 more, greedy: the engine's
  tokens a second, and those of `generate` with a dynamic and a static cache (not compiled).
- `throughput`: nano-vllm's bench: 256 requests, 100 to 1024 tokens in and out, temperature 0.6.
- `kernels`: each at shapes of Llama-3-8B, its floor by bytes, operations or a launch.
- `smoke`: small models of several families and types on the GPU, against the CPU's results.

Nothing is timed that is not right first: kernels against float64, models against transformers in
float32 (no more than twice as far off as transformers in bfloat16). Kernels are timed by events
around replays of a CUDA graph, on copies of their data that together exceed the caches; medians.

With `--out results/gpu.json` there is a table `gpu.md` too, both written anew after each row. The
run ends by itself after `--seconds`. `--only` names parts; alone, one may take all the time.
`--engine` sets a field of EngineConfig for all engines, as often as given. It exits with 1 if
something was wrong or failed. Without a GPU `--device cpu --scale tiny` shows that everything runs.

It needs no network, and of Python packages torch, triton, transformers, numpy, gguf, msgspec,
tokenizers, jinja2, pyyaml, tqdm and huggingface_hub; llguidance for grammars.
"""

import argparse
import sys
import time
from pathlib import Path

import msgspec
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.on_gpu.child import Order  # noqa: E402
from tests.bench.on_gpu.parts import PARTS  # noqa: E402
from tests.bench.on_gpu.report import Results, origin  # noqa: E402
from tests.bench.on_gpu.row import Row, ceilings_of  # noqa: E402
from tests.bench.on_gpu.supervisor import run_part  # noqa: E402

RESULTS = ROOT / "tests" / "bench" / "results"
Value = str | int | float | bool


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """From the command line. Exits with a sentence for what cannot be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--scale", default="full", choices=("full", "tiny"))
    parser.add_argument("--only", default=",".join(PARTS), help="parts, commas between them")
    parser.add_argument("--seconds", type=float, default=520, help="for everything")
    parser.add_argument("--engine", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--commit", default="", help="of this code, where git cannot say")
    parser.add_argument("--out", default="", help="writes this JSON file, and a table beside it")
    found = parser.parse_args(arguments)
    if unknown := set(found.only.split(",")) - set(PARTS):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if found.device == "cpu" and found.scale == "full":
        parser.error("a CPU would take days; add --scale tiny")
    if found.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU; --device cpu --scale tiny shows that everything runs")
    is_result = found.out and RESULTS in Path(found.out).resolve().parents
    if is_result and not (is_measurement(found) and set(found.only.split(",")) == set(PARTS)):
        parser.error(f"{RESULTS} is for measurements of all parts; name another file")
    return found


def is_measurement(found: argparse.Namespace) -> bool:
    """Whether figures say something."""
    return bool(found.device == "cuda" and found.scale == "full")


def settings(given: list[str]) -> dict[str, Value]:
    """`name=value` pairs; a value that reads as JSON is what it says."""
    pairs = [pair.partition("=") for pair in given]
    return {name: _value(text) for name, _, text in pairs}


def _value(text: str) -> Value:
    try:
        value: Value = msgspec.json.decode(text, type=Value)
    except msgspec.DecodeError:
        return text
    return value


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; 0 if nothing was wrong."""
    args = options(arguments)
    end = time.monotonic() + args.seconds
    shown = {name: value for name, value in vars(args).items() if name not in ("out", "commit")}
    results = Results(
        is_measurement=is_measurement(args), origin=origin(args.device, args.commit), options=shown
    )
    chosen = [name for name in PARTS if name == "ceilings" or name in args.only.split(",")]
    is_shared = is_measurement(args) and len(chosen) > 2  # the time, but for one part's
    for name in chosen:
        left = end - time.monotonic()
        run(name, min(PARTS[name].seconds, left) if is_shared else left, args, results)
    print(f"\n{results.table()}")
    return 0 if results.is_good else 1


def run(name: str, seconds: float, args: argparse.Namespace, results: Results) -> None:
    """One part; what it finds is written as it comes."""

    def found(row: Row) -> None:
        results.rows.append(row)
        results.seconds[name] = time.monotonic() - start
        print(row.part, row.name, row.state, row.value or "", row.unit, row.note, flush=True)
        if args.out:
            results.write(Path(args.out))

    start = time.monotonic()
    if seconds <= 0:
        found(Row(part=name, name=name, state="skipped", note="there was no time left"))
        return
    order = Order(
        part=name,
        seconds=seconds,
        device=args.device,
        scale=args.scale,
        ceilings=ceilings_of(results.rows),
        engine=settings(args.engine),
    )
    run_part(order, found)


if __name__ == "__main__":
    sys.exit(main())
