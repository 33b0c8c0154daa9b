"""Compiles every kernel as engines launch it, for GPUs that need not be here.

Engines run on a pretended device, in Triton's compiling mode; launches are noted and not run. So
what Triton makes of an argument that is 1, or begins at no multiple of 16 bytes, is compiled too.
Prints a line a kernel, and returns 1 if one does not compile.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType as Type

from engine.config import EngineConfig
from engine.engine import load_generator
from engine.weights.files import ModelRef, resolve
from kernels import interpreter
from tests.engine.hash_model import drain, request
from tests.engine.twins import twins_on_cuda
from tests.kernels.compile_for_gpu import Recorder, in_parallel

ARCH = 90
PROMPTS = ([5], [7, 8, 9, 10, 11], list(range(10, 50)))
SETTINGS: tuple[dict[str, Any], ...] = (
    {"max_seqs": 1, "block_size": 1},
    {"max_seqs": 3, "max_num_batched_tokens": 32},
    {"max_seqs": 2, "kv_cache_dtype": "fp8"},
)
PLAIN = ("llama-mha", "gemma-mqa", "gemma3", "phi-qk-norm", "phi3-long", "mixtral", "olmo2")
PACKED = (("llama3", Type.Q4_K), ("llama3", Type.Q8_0), ("mixtral", Type.Q6_K))


def paths(folder: Path) -> Iterator[Path]:
    """Small models of several kinds."""
    from tests.engine.models import tiny
    from tests.engine.models.gguf_files import write_gguf
    from tests.engine.models.test_gguf_families import WIDE

    for name in PLAIN:
        yield tiny.save_checkpoint(name, folder / name)
    for name, kind in PACKED:
        yield write_gguf(tiny.make_model(name, **WIDE), folder / f"{name}-{kind.name}.gguf", kind)


def run(path: Path, settings: dict[str, Any]) -> None:
    """A few tokens of some sequences, greedy and drawn."""
    base = {"device": "cuda:0", "dtype": "bfloat16", "kv_cache_bytes": 1 << 21}
    config = EngineConfig(**{"max_num_batched_tokens": 64, **base, **settings})
    engine = load_generator(resolve(ModelRef(model=str(path))), config)
    for number, prompt in enumerate(PROMPTS):
        params: dict[str, Any] = {"temperature": number % 2, "max_tokens": 3}
        engine.add(request(prompt, id=str(number), **params))
    drain(engine)


def main() -> int:
    """See above."""
    recorder = Recorder()
    recorder.arch = ARCH
    with tempfile.TemporaryDirectory() as folder, twins_on_cuda() as cuda:
        cuda.on_launch = recorder.run
        for path in paths(Path(folder)):
            for settings in SETTINGS:
                recorder.label = f"{path.stem} {settings}"
                run(path, settings)
    jobs = list(recorder.jobs.values())
    num_bad = 0
    for result in in_parallel(jobs, os.cpu_count() or 1):
        is_bad = any("does not compile" in fault for fault in result.faults)
        num_bad += is_bad
        sys.stdout.write(f"{result.line}\n")
    sys.stdout.write(f"{len(jobs)} kernels, {num_bad} do not compile\n")
    return int(num_bad > 0 or not jobs)


if __name__ == "__main__":
    interpreter.use_compiler()
    sys.exit(main())
