"""The pretended device itself: what it must refuse, let through and count."""

import math
import threading

import pytest
import torch
import triton
import triton.language as tl

from kernels import interpreter
from kernels.rms_norm import rms_norm
from tests.engine.on_device import DevicesMixed, OnDevice
from tests.engine.pretend_cuda import pretend_cuda
from tests.engine.twins import twins_on_cuda

pytestmark = pytest.mark.skipif(
    not interpreter.is_interpreting(), reason="kernels of this process compile"
)
CUDA = torch.device("cuda:0")


@pytest.fixture
def cuda():
    with pretend_cuda(num_devices=2) as mode:
        yield mode


@pytest.fixture
def x(cuda):
    return torch.arange(6.0).to(CUDA, non_blocking=True).view(2, 3)


MIXED = {
    "a sum": lambda x: x + torch.ones(3),
    "a product": lambda x: x @ torch.ones(3, 2),
    "rows joined": lambda x: torch.cat([x, torch.ones(1, 3)]),
    "a choice": lambda x: torch.where(torch.ones(3, dtype=torch.bool), x, 0.0),
    "rows by an index on the host": lambda x: x[torch.tensor([1])],
    "numbers on the host that are one row": lambda x: x.addmm(torch.ones(2, 1), torch.ones(1, 3)),
    "two devices": lambda x: x + torch.ones(3, device="cuda:1"),
}
NOT_THERE = {
    "integers multiplied as matrices": lambda x: x.long() @ x.long().T,
    "unsigned words added": lambda x: x.to(torch.int16).view(torch.uint16) + 1,
    "e4m3 compared": lambda x: x.to(torch.float8_e4m3fn) > 0,
}


@pytest.mark.parametrize(
    "attempt", [*MIXED.values(), *NOT_THERE.values()], ids=[*MIXED, *NOT_THERE]
)
def test_what_a_gpu_would_not_do_is_refused(x, attempt):
    with pytest.raises(DevicesMixed):
        attempt(x)


def test_the_host_cannot_read_the_memory(x):
    with pytest.raises(RuntimeError, match="numpy"):
        x.numpy()
    assert x.cpu().numpy().sum() == 15


def test_results_are_those_of_the_cpu_and_stay_on_the_device(x):
    table = torch.zeros(4, 3, device=CUDA)
    table[torch.tensor([2, 0], device=CUDA)] = x * torch.tensor(2.0) - 1
    part = table[1:]
    part[0].fill_(7.0)
    assert (table.device, table.is_cuda, part.T.device) == (CUDA, True, CUDA)
    assert table.tolist() == [[5, 7, 9], [7, 7, 7], [-1, 1, 3], [0, 0, 0]]


WAITS = {
    "to the host": lambda x: x.tolist(),
    "to the device": lambda x: torch.ones(3).to(CUDA),
    "_local_scalar_dense": lambda x: int(x.max()),
    "index": lambda x: x[x > 2],
    "bincount": lambda x: x.flatten().long().bincount(minlength=8),
    "repeat_interleave": lambda x: x[0].repeat_interleave(x[0].long()),
    "nonzero": lambda x: x.nonzero(),
}


@pytest.mark.parametrize("kind", WAITS)
def test_what_the_host_waits_for_is_counted(cuda, x, kind):
    WAITS[kind](x)
    assert cuda.waits == {kind: 1}


def test_a_list_becomes_a_tensor_by_a_copy_that_is_waited_for(cuda):
    assert torch.tensor([3, 4], device=CUDA).tolist() == [3, 4]
    assert cuda.waits == {"to the device": 1, "to the host": 1}


def test_nothing_is_counted_where_nothing_is_waited_for(cuda, x):
    torch.tensor([1, 2]).to(CUDA, non_blocking=True)
    x.index_select(0, torch.arange(2, device=CUDA)).softmax(-1).masked_fill_(x > 3, -torch.inf)
    assert not cuda.waits


def test_a_kernel_takes_tensors_of_the_current_device_alone(cuda, x):
    weight = torch.ones(3, device=CUDA)
    assert rms_norm(x, weight, 0.0).isfinite().all()
    assert cuda.launches == {"_rms_norm_kernel": 1}
    with pytest.raises(ValueError, match="device of weight"):
        rms_norm(x, torch.ones(3), 0.0)
    with pytest.raises(DevicesMixed, match="_copy_kernel is launched on cuda:0"):
        _copy_kernel[(1,)](x, torch.empty(6), BLOCK=8)
    torch.cuda.set_device(1)
    with pytest.raises(DevicesMixed, match="launched on cuda:1 with a tensor on cuda:0"):
        rms_norm(x, weight, 0.0)


@triton.jit
def _copy_kernel(source, target, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    tl.store(target + place, tl.load(source + place, mask=place < 6), mask=place < 6)


def test_a_graph_does_again_what_was_captured_on_the_same_memory(cuda):
    rows, total = torch.zeros(3, device=CUDA), torch.zeros(3, device=CUDA)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = rows * 2
        total[1:].add_(rms_norm(doubled[None], torch.ones(3, device=CUDA), 1.0)[0, 1:])
    for value in (1.0, -3.0):
        rows.fill_(value)
        total.zero_()
        graph.replay()
        assert doubled.tolist() == [2 * value] * 3
        scaled = 2 * value / math.sqrt(4 * value**2 + 1)
        assert total.tolist() == pytest.approx([0, scaled, scaled])


NOT_IN_A_GRAPH = {
    "reading": lambda x: x.tolist(),
    "choosing rows by a mask": lambda x: x[x > 2],
    "copying from the host": lambda x: x.copy_(torch.ones(2, 3)),
    "waiting": lambda x: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("attempt", NOT_IN_A_GRAPH.values(), ids=NOT_IN_A_GRAPH)
def test_a_capture_cannot_wait(x, attempt):
    graph = torch.cuda.graph(torch.cuda.CUDAGraph())
    with pytest.raises(DevicesMixed, match="a capture cannot"), graph:
        attempt(x)


def test_a_copy_that_is_not_waited_for_comes_late(cuda, x):
    pinned = torch.zeros(2, 3).pin_memory()
    pinned.copy_(x, non_blocking=True)
    x.zero_()
    assert pinned.sum() != 15
    assert not cuda.waits
    torch.cuda.Event().synchronize()
    assert pinned.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert cuda.waits == {"to the host": 1}


def test_what_triton_would_compile_anew_is_another_variant(cuda):
    source = torch.arange(24.0, device=CUDA)
    for start in (0, 4, 8, 1, 3):
        _copy_kernel[(1,)](source[start:], torch.empty(6, device=CUDA), BLOCK=8)
    assert len(cuda.variants["_copy_kernel"]) == 2  # 16 bytes divide where it begins, or not


def test_twins_answer_after_the_launchers_checks():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 6, generator=generator)
    expected = values / values.pow(2).mean(-1, keepdim=True).sqrt()
    with twins_on_cuda() as cuda:
        from kernels import ops

        x, weight = values.to(CUDA), torch.ones(6, device=CUDA)
        made = ops.rms_norm(x, weight, 0.0)
        assert isinstance(made, OnDevice)
        torch.testing.assert_close(made.cpu(), expected)
        with pytest.raises(ValueError, match="last stride of x"):
            ops.rms_norm(x.T[:, ::2], weight[:2], 0.0)
    assert cuda.launches == {"_rms_norm_kernel": 1}


def test_threads_have_the_device_too_and_afterwards_there_is_none():
    found = []
    with pretend_cuda():
        there = torch.ones(2, device=CUDA)
        thread = threading.Thread(target=lambda: found.append((there + 1).tolist()))
        thread.start()
        thread.join()
    assert found == [[2, 2]]
    assert not torch.cuda.is_available()
    with pytest.raises(AssertionError, match="outside of"):
        there + 1
