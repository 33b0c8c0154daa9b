"""Compiles every kernel for GPUs that need not be here, and reads what came out: `make kernels`.

Launchers are called as they are, and each launch is compiled instead. A kernel is bad if registers
spill, if its shared memory does not fit, if instructions are missing that it is written for, or if
its loop has so many of them that they, not memory, would be the limit. Nothing is run: this says
nothing of results or speed.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from kernels import architecture
from kernels.add_rms_norm import add_rms_norm
from kernels.gelu_mul import gelu_mul
from kernels.grouped_linear import grouped_linear
from kernels.hqq_parts import PART_ROWS
from kernels.lora_expand import lora_expand
from kernels.lora_shrink import lora_shrink
from kernels.philox import uniform
from kernels.planes.arguments import format_constants
from kernels.planes.format import FORMATS, empty_planes, planes_bytes
from kernels.planes.hqq import FORMATS as HQQ_FORMATS, empty_hqq_planes
from kernels.rms_norm import rms_norm
from kernels.rotary import rotary
from kernels.silu_mul import silu_mul
from kernels.uniform_quads import uniform_quads
from kernels.varlen_attention import varlen_attention
from tests.kernels.attention_launches import attention_launches
from tests.kernels.cubin import Cubin, read_cubin
from tests.kernels.packed_launches import COMMON, packed_launches

MAX_SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10}
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.float16: "fp16",
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.uint16: "u16",
    torch.int16: "i16",
}
# A tensor core's products, and loads that the next iterations are fetched with meanwhile.
_PRODUCTS, _AHEAD = ("HMMA", "HGMMA"), ("LDGSTS", "UTMALDG")
NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "_vector_kernel": (_PRODUCTS, _AHEAD),
    "_few_kernel": (_PRODUCTS, _AHEAD),
    "_hqq_few_kernel": (_PRODUCTS, _AHEAD),
    "_hqq_many_kernel": (_PRODUCTS,),
    "_packed_linear_kernel": (_PRODUCTS,),
    "_packed_grouped_linear_kernel": (_PRODUCTS,),
    "_grouped_linear_kernel": (_PRODUCTS, _AHEAD),
}
# What an A100, RTX 3090, RTX 4090 and H200 issue, instructions of a lane for each byte they copy.
MOST_PER_BYTE = {80: 12.0, 86: 19.0, 89: 40.0, 90: 7.8}
# Of formats that files seldom have: instructions may be what limits these, a little.
RARELY_MORE = 1.25


class Job(NamedTuple):
    """One kernel to compile for one architecture."""

    name: str
    arch: int
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    attributes: dict[tuple[int, ...], Any]
    options: dict[str, Any]

    def key(self) -> tuple[Any, ...]:
        """Equal for launches that need the same code."""
        parts = (self.signature, self.constants, self.attributes, self.options)
        return (self.kernel.__name__, self.arch, *(repr(sorted(part.items())) for part in parts))


class Recorder:
    """Stands in for the launch of a kernel: remembers what to compile."""

    def __init__(self) -> None:
        self.arch = 0
        self.label = ""
        self.jobs: dict[tuple[Any, ...], Job] = {}

    def run(self, kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        names = {"num_warps", "num_stages", "maxnreg", "enable_fp_fusion"}
        options = {name: kwargs.pop(name) for name in names & kwargs.keys()}
        values = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        signature, constants = {}, {}
        attributes: dict[tuple[int, ...], Any] = {}
        for parameter in kernel.params:
            value = values[parameter.name]
            signature[parameter.name] = kind = _kind(parameter, value)
            if kind == "constexpr":
                constants[parameter.name] = value
            elif kind != "fp32" and _start(value) % 16 == 0:
                attributes[(parameter.num,)] = [["tt.divisibility", 16]]
        name = f"{kernel.__name__} {self.label}"
        job = Job(name, self.arch, kernel, signature, constants, attributes, options)
        self.jobs.setdefault(job.key(), job)


def _kind(parameter: Any, value: Any) -> str:
    if parameter.is_constexpr:
        return "constexpr"
    if isinstance(value, torch.Tensor):
        return "*" + TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "constexpr" if value == 1 and not parameter.do_not_specialize else "i32"


def _start(value: Any) -> int:
    """What Triton looks at: a number, or where a tensor begins in bytes."""
    if isinstance(value, torch.Tensor):
        return int(value.storage_offset()) * value.element_size()
    return int(value)


class Result(NamedTuple):
    """A line of the report, and what is bad about the kernel."""

    line: str
    faults: tuple[str, ...]


def compiled(job: Job) -> Result:
    """Compile and read one kernel."""
    source = ASTSource(job.kernel, job.signature, job.constants, job.attributes)
    target = GPUTarget("cuda", job.arch, 32)
    code = triton.compile(source, target=target, options=job.options)
    cubin, shared = read_cubin(code.asm["cubin"]), code.metadata.shared
    cost = per_byte(job, cubin, code.metadata.num_warps)
    faults = tuple(_faults(job, cubin, shared, cost))
    line = f"{job.name:64} sm_{job.arch} {cubin.num_registers:4} registers {shared:7} bytes shared"
    line += f" {cost:5.2f} a byte" if cost else ""
    return Result(line + (f"  BAD: {', '.join(faults)}" if faults else ""), faults)


def _faults(job: Job, cubin: Cubin, shared: int, cost: float) -> Iterator[str]:
    if cubin.num_spills:
        yield f"{cubin.num_spills} instructions spill"
    if shared > MAX_SHARED_BYTES[job.arch]:
        yield f"more than {MAX_SHARED_BYTES[job.arch]} bytes shared"
    if "bf16" in job.signature.get("x", "") and job.kernel.__name__ in NEEDED:
        for names in NEEDED[job.kernel.__name__]:
            if not cubin.count(*names):
                yield f"no {' or '.join(names)}"
    if cost > (most := most_per_byte(job) if cost else 0.0):
        yield f"more than {most} instructions a byte"


def most_per_byte(job: Job) -> float:
    """Of a format that nearly every file has; of others a little more."""
    is_common = job.name.split()[2] in {kind.name for kind in COMMON}
    return MOST_PER_BYTE[job.arch] * (1 if is_common else RARELY_MORE)


def per_byte(job: Job, cubin: Cubin, num_warps: int) -> float:
    """Instructions of a thread for each byte of weights that it reads, where a byte counts.

    That is a product with one input: the loop takes a block of a tile of rows.
    """
    is_one = job.kernel.__name__ == "_vector_kernel" or job.constants.get("IS_ONE", False)
    if not is_one or job.signature["x"] != "*bf16":
        return 0.0
    rows: int = job.constants.get("ROWS", PART_ROWS)
    return cubin.longest_loop() * 32 * num_warps / (rows * block_bytes(job))


def block_bytes(job: Job) -> float:
    """Bytes of a block of a row, of the one format with these constants that has the fewest."""
    for kind, own in HQQ_FORMATS.items():
        if "IS_ONE" in job.constants and own.codes == job.constants["CODES"]:
            part = empty_hqq_planes(kind, PART_ROWS, 256, torch.device("cpu"))
            return planes_bytes(part) / PART_ROWS
    return min(
        planes_bytes(empty_planes(kind, 1, 256, torch.device("cpu"))._replace(table=torch.empty(0)))
        for kind, format in FORMATS.items()
        if all(job.constants[name] == value for name, value in format_constants(format).items())
    )


def launches(dtype: torch.dtype) -> Iterator[tuple[str, Any]]:
    """Every launcher, at the shapes of the models that are served."""

    def tensor(*shape: int, of: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=of)

    index = tensor(64, of=torch.int64)
    yield "", lambda: uniform(index, index, index, 128256)
    yield "", lambda: uniform_quads(index, index, index, index, index)
    for dim in (576, 4096):
        x = tensor(64, dim)
        for label, weight in (("", tensor(dim)), (" wide", tensor(dim, of=torch.float32))):
            yield f"{dim}{label}", lambda x=x, weight=weight: rms_norm(x, weight, 1e-6)
            yield f"{dim}{label}", lambda x=x, weight=weight: add_rms_norm(x, x, weight, 1e-6)
        yield f"{dim}", lambda x=x: silu_mul(x)
        yield f"{dim}", lambda x=x: gelu_mul(x)
    for experts, out, inner in ((8, 28672, 4096), (128, 2048, 768)):
        weight, starts = tensor(1, out, inner).expand(experts, -1, -1), _starts(experts)
        for rows in (8, 32 * experts, 256 * experts):
            x = tensor(rows, inner)
            label = f"{experts}x{out}x{inner} of {rows}"
            yield label, lambda x=x, w=weight, s=starts: grouped_linear(x, w, s)
    x, adapters = tensor(64, 4096), tensor(64, of=torch.int32)
    for rank in (16, 64):
        down, up = tensor(4, rank, 4096), tensor(4, 4096, rank)
        shrunk, scales = tensor(64, rank, of=torch.float32), tensor(4, of=torch.float32)
        yield f"rank {rank}", partial(lora_shrink, x, down, adapters)
        yield f"rank {rank}", partial(lora_expand, x, shrunk, up, adapters, scales)
    for heads, kv_heads, dim in ((32, 8, 128), (9, 3, 64), (32, 32, 80), (8, 4, 256)):
        query, key = tensor(64, heads, dim), tensor(64, kv_heads, dim)
        cos = tensor(64, dim // 2, of=torch.float32)
        label = f"{heads}/{kv_heads}x{dim}"
        yield label, lambda q=query, k=key, cos=cos: rotary(q, k, cos, cos)
        for window in (0, 64):
            packed = (query, key, key, _starts(8), dim**-0.5, window)
            name = f"{label}{' window' if window else ''}"
            yield name, lambda packed=packed: varlen_attention(*packed)
            if heads == kv_heads:  # as all models have them that have biases
                biased = (*packed, tensor(heads, 257, of=torch.float32))
                yield f"{name} biases", lambda biased=biased: varlen_attention(*biased)
    yield from attention_launches(dtype)


def _starts(num_sequences: int) -> torch.Tensor:
    return torch.zeros(num_sequences + 1, dtype=torch.int32)


def recorded(archs: Sequence[int], *, has_all: bool) -> list[Job]:
    """What all launchers would launch, in the order of the report."""
    recorder = Recorder()
    JITFunction.run = lambda kernel, *args, **kwargs: recorder.run(kernel, *args, **kwargs)
    for recorder.arch in archs:
        architecture.INTERPRETED = recorder.arch
        for dtype in (torch.bfloat16, torch.float32) if has_all else (torch.bfloat16,):
            both = (launches(dtype), packed_launches(dtype, has_all=has_all))
            for label, launch in itertools.chain(*both):
                recorder.label = f"{TYPES[dtype]} {label}"
                launch()
    return list(recorder.jobs.values())


def in_parallel(jobs: Sequence[Job], num_processes: int) -> Iterator[Result]:
    """Results as they come. Forked processes: a kernel cannot be sent to one, but it has it."""
    context = get_context("fork")
    results: SimpleQueue[Result] = context.SimpleQueue()
    for start in range(num_processes):
        part = jobs[start::num_processes]
        context.Process(target=_compile_all, args=(part, results), daemon=True).start()
    for _ in jobs:
        yield results.get()


def _compile_all(jobs: Sequence[Job], results: "SimpleQueue[Result]") -> None:
    for job in jobs:
        try:
            results.put(compiled(job))
        except Exception as error:
            fault = f"does not compile: {str(error).strip()}"
            results.put(Result(f"{job.name} sm_{job.arch}  BAD: {fault}", (fault,)))


def main() -> int:
    """Print a line a kernel, and return 1 if one is bad or there is none."""
    parser = argparse.ArgumentParser()
    parser.add_argument("archs", nargs="*", type=int, default=list(MAX_SHARED_BYTES))
    parser.add_argument("--all", action="store_true", help="float32 and rare formats too")
    parser.add_argument("--only", default="", help="kernels with this in their line")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    every = recorded(asked.archs, has_all=asked.all)
    jobs = [job for job in every if asked.only in job.name]
    num_bad = 0
    for result in in_parallel(jobs, asked.jobs):
        num_bad += bool(result.faults)
        sys.stdout.write(f"{result.line}\n")
    sys.stdout.write(f"{len(jobs)} kernels, {num_bad} bad\n")
    return int(num_bad > 0 or not jobs)


if __name__ == "__main__":
    sys.exit(main())
