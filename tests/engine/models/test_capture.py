"""Every family's decode step is one that a META graph can have: the way it takes on a GPU.

Tensors have no numbers (they are on torch's device `meta`), and kernels are not launched: whatever
asks what a tensor holds, or copies it to the host, fails. What runs is the Python of a capture.
"""

from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor, nn
from triton.runtime.jit import KernelInterface

from engine.capacity import Capacity
from engine.config import EngineConfig
from engine.decode_graphs import DecodeGraphs, bucket_sizes
from engine.graph_setup import why_eager
from engine.kv_cache import allocate
from engine.layers.decoder import Decoder
from engine.models.registry import load_class
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from engine.weights.rope_scaling import rope_switch
from kernels import ops
from kernels.packed import PackedStack
from tests.engine.late_device import Refusing
from tests.engine.models import tiny
from tests.engine.models.gguf_files import write_gguf
from tests.engine.models.test_gguf_families import WIDE

MAX_SEQS = 24
META = torch.device("meta")


class CapturingDevice:
    """A device where nothing may be captured that waits for it."""

    device = META

    def __init__(self) -> None:
        self.num_captures = 0

    def capture(self, body: Any) -> Any:
        with Refusing():
            body()
        self.num_captures += 1
        return body

    def upload(self, values: Any) -> Tensor:
        raise AssertionError("a capture copies nothing")

    def forget(self) -> None:
        """There is nothing."""

    fetch: Any = upload

    def used_bytes(self) -> int:
        return 0


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that would have been launched."""
    names: set[str] = set()

    def launch(kernel: Any, grid: Any) -> Any:
        assert all(isinstance(size, int) for size in grid), "grids are of shapes alone"
        names.add(kernel.__name__)
        return lambda *args, **kwargs: None

    monkeypatch.setattr(KernelInterface, "__getitem__", launch)
    monkeypatch.setattr(ops, "_takes_kernel", lambda tensor: tensor.is_meta)
    return names


def config_of(path):
    return open_checkpoint(resolve(ModelRef(model=str(path)))).config


def capture(model: Decoder) -> None:
    """All graphs of a model."""
    config, device = model.config, CapturingDevice()
    cache = allocate(config, 8, 16, model.embedding.weight.dtype, META)
    has_rope_sets = rope_switch(config, config.context_length) > 0
    capacity = Capacity(8, 16, config.context_length)
    graphs = DecodeGraphs(
        *(cache, capacity, MAX_SEQS, config.vocab_size, device), has_rope_sets=has_rope_sets
    )
    graphs.capture(model)
    assert device.num_captures == len(bucket_sizes(MAX_SEQS)) == 6


@pytest.mark.parametrize("name", list(tiny.RECIPES))
def test_a_decode_step_never_asks_the_device(name, checkpoints, launched):
    config = config_of(checkpoints(name))
    model = load_class(config.architecture)(config, torch.bfloat16, META)
    assert why_eager(EngineConfig(), model) == ""
    capture(model)
    assert {"_decode_attention_kernel", "_sample_kernel", "_choose_kernel"} <= launched
    assert ("_grouped_linear_kernel" in launched) == bool(config.num_experts)


def moved(value: Any) -> Any:
    """A part of a model without its numbers."""
    if isinstance(value, Tensor):
        there = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=META)
        is_weight = isinstance(value, nn.Parameter)
        return nn.Parameter(there, requires_grad=False) if is_weight else there
    if isinstance(value, tuple):
        items = [moved(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def move(model: Decoder) -> None:
    memo: dict[int, Any] = {}  # tied weights stay tied
    for module in model.modules():
        module.__dict__["_projection"] = None
        for parts in (module._parameters, module._buffers, module.__dict__):
            for name, value in list(parts.items()):
                if isinstance(value, Tensor | tuple):
                    memo.setdefault(id(value), (value, moved(value)))
                    parts[name] = memo[id(value)][1]
    layers = [layer.packed_parts() for layer in model._layers]
    model._stack = PackedStack([layer for layer in layers if layer]) if all(layers) else None


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_K], ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", ["llama3", "gemma2", "phi", "qwen3-moe"])
def test_nor_does_one_with_packed_weights(name, kind, tmp_path, load_model, launched, monkeypatch):
    # In this order: the second module may only now be imported, and takes its name from the first.
    for module in ("engine.layers.packed_experts", "engine.weights.loader"):
        monkeypatch.setattr(f"{module}.in_planes", lambda _: True)
    path = write_gguf(tiny.make_model(name, **WIDE), tmp_path / "model.gguf", kind)
    model = load_model(path, torch.bfloat16)
    move(model)
    assert why_eager(EngineConfig(), model) == ""
    capture(model)
    assert {"_vector_kernel", "_few_kernel", "_packed_linear_kernel"} <= launched
    assert ("_packed_grouped_linear_kernel" in launched) == ("moe" in name)


def test_experts_that_are_packed_one_by_one_are_known_to_need_eager_steps(tmp_path, load_model):
    path = write_gguf(tiny.make_model("qwen3-moe", **WIDE), tmp_path / "model.gguf", Type.Q8_0)
    assert "wait for the router" in why_eager(EngineConfig(), load_model(path))


@pytest.mark.parametrize(
    "body",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.copy_(torch.ones(4)),
        lambda x: bool(x.any()),
    ],
)
def test_what_waits_is_found(body):
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        CapturingDevice().capture(lambda: body(torch.zeros(4, device=META)))
