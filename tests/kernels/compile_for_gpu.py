"""Compiles every kernel as its launcher would launch it, for GPUs that need not be there.

A process of its own (see test_compile.py): the interpreter and the compiler exclude each other.
Launchers run on CPU tensors; what they launch is compiled, and a line is printed for each.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from kernels import architecture
from kernels.add_rms_norm import add_rms_norm
from kernels.gelu_mul import gelu_mul
from kernels.grouped_linear import grouped_linear
from kernels.philox import uniform
from kernels.rms_norm import rms_norm
from kernels.rotary import rotary
from kernels.silu_mul import silu_mul
from kernels.uniform_quads import uniform_quads
from kernels.varlen_attention import varlen_attention
from tests.kernels.attention_launches import attention_launches

MAX_SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10}
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
}


class Compiler:
    """Stands in for the launch of a kernel: compiles it for one architecture."""

    def __init__(self, arch: int) -> None:
        self.arch = arch
        self.num_bad = 0
        self.label = ""

    def run(self, kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        names = {"num_warps", "num_stages"}
        options = {name: kwargs.pop(name) for name in names & kwargs.keys()}
        values = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        signature, constants, attributes = {}, {}, {}
        for parameter in kernel.params:
            value = values[parameter.name]
            signature[parameter.name] = kind = _kind(parameter, value)
            if kind == "constexpr":
                constants[parameter.name] = value
            elif kind[0] == "*" or (kind[0] == "i" and value % 16 == 0):
                attributes[(parameter.num,)] = [["tt.divisibility", 16]]
        source = ASTSource(kernel, signature, constants, attributes)
        target = GPUTarget("cuda", self.arch, 32)
        self.report(kernel, triton.compile(source, target=target, options=options))

    def report(self, kernel: Any, compiled: Any) -> None:
        registers, spilled = ptxas(compiled.asm["ptx"], self.arch)
        shared = compiled.metadata.shared
        is_bad = spilled > 0 or shared > MAX_SHARED_BYTES[self.arch]
        self.num_bad += is_bad
        name = f"{kernel.__name__} {self.label}"
        line = f"{name:50} sm_{self.arch} {registers:4} registers {spilled:5} bytes spilled"
        sys.stdout.write(f"{line} {shared:7} bytes shared{'  BAD' if is_bad else ''}\n")


def _kind(parameter: Any, value: Any) -> str:
    if parameter.is_constexpr:
        return "constexpr"
    if isinstance(value, torch.Tensor):
        return "*" + TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "constexpr" if value == 1 and not parameter.do_not_specialize else "i32"


def ptxas(ptx: str, arch: int) -> tuple[int, int]:
    """Registers a thread, and bytes that it spills."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "kernel.ptx")
        source.write_text(ptx)
        name = f"sm_{arch}{'a' if arch >= 90 else ''}"
        command = [str(tool), "-v", f"--gpu-name={name}", str(source), "-o", f"{source}.o"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = re.findall(r"Used (\d+) registers", output)
    return int(registers[0]), sum(map(int, re.findall(r"(\d+) bytes spill", output)))


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


def main(archs: list[int]) -> int:
    num_bad = 0
    for arch in archs:
        compiler = Compiler(arch)
        architecture.INTERPRETED = arch
        JITFunction.run = lambda kernel, *args, **kwargs: compiler.run(kernel, *args, **kwargs)  # noqa: B023
        for dtype in (torch.bfloat16, torch.float32):
            for label, launch in launches(dtype):
                compiler.label = f"{TYPES[dtype]} {label}"
                launch()
        num_bad += compiler.num_bad
    return num_bad


if __name__ == "__main__":
    sys.exit(min(1, main([int(arch) for arch in sys.argv[1:]])))
