"""The door: it loads no Triton, computes on CPU, and launches kernels for CUDA tensors."""

import subprocess
import sys

import pytest
import torch

from kernels import ops

IMPORTS = """
import sys
import torch
from kernels import ops
x = torch.ones(2, 4)
ops.rms_norm(x, torch.ones(4), 1e-6)
assert not any(name.split(".")[0] == "triton" for name in sys.modules), "triton"
assert not torch.cuda.is_initialized(), "cuda"
"""


def arguments(device):
    """One call of every op, small and valid."""
    x, weight = torch.rand(3, 8, device=device), torch.rand(8, device=device)
    heads = torch.rand(3, 2, 4, device=device)
    angles, cache = torch.rand(3, 2, device=device), torch.rand(4, 2, 2, 4, device=device)
    index = torch.arange(3, device=device)
    tables = torch.tensor([[1, 2]], dtype=torch.int32, device=device)
    starts = torch.tensor([0, 3], dtype=torch.int32, device=device)
    length = torch.tensor([3], dtype=torch.int32, device=device)
    return {
        "rms_norm": (x, weight, 1e-6),
        "add_rms_norm": (x, x, weight, 1e-6),
        "rotary": (heads, heads, angles, angles),
        "silu_mul": (x,),
        "gelu_mul": (x,),
        "grouped_linear": (x, torch.rand(2, 5, 8, device=device), starts.new_tensor([0, 1, 3])),
        "write_kv": (heads, heads, cache, cache.clone(), index),
        "paged_attention": (heads, cache, cache, tables, starts, length, 0.5, 2, 30.0),
        "varlen_attention": (heads, heads, heads, starts, 0.5, 1),
        "uniform": (index, index, index, 5),
        "uniform_quads": (index, index, index, index, index),
    }


def test_importing_and_using_ops_on_cpu_loads_no_triton_and_asks_no_gpu():
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, timeout=60)


@pytest.mark.parametrize("name", arguments("cpu"))
def test_every_op_runs_on_cpu(name):
    result = getattr(ops, name)(*arguments("cpu")[name])
    for tensor in result if isinstance(result, tuple) else (result,):
        assert tensor is None if name == "write_kv" else tensor.isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("name", arguments("cpu"))
def test_cuda_tensors_give_what_cpu_tensors_give(name):
    torch.manual_seed(0)
    on_cpu = arguments("cpu")[name]
    on_gpu = [value.cuda() if isinstance(value, torch.Tensor) else value for value in on_cpu]
    expected = getattr(ops, name)(*on_cpu)
    result = getattr(ops, name)(*on_gpu)
    if name == "write_kv":
        expected, result = on_cpu[2:4], tuple(on_gpu[2:4])
    torch.testing.assert_close(result, expected, check_device=False, rtol=1e-5, atol=1e-5)
