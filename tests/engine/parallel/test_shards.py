"""The parts of every family, each in a thread, add up to transformers' model."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from engine.errors import LoadError
from engine.layers.decoder import Decoder
from engine.models.registry import load_class
from engine.parallel.checkpoint import ShardedCheckpoint
from engine.parallel.group import add_up
from engine.parallel.shard import Shard
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from tests.engine.models import tiny
from tests.engine.models.gguf_files import write_gguf
from tests.engine.models.paged import PagedModel

TOLERANCE = 1e-4
UNDIVIDED = {"gemma-mqa": "num_kv_heads is 1", "olmo2": "all heads", "olmo2-linear": "all heads"}


class Sum:
    """Adds up what `size` threads bring, each time all have come."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.brought = [torch.empty(0)] * size

    def of(self, rank: int) -> Callable[[torch.Tensor], None]:
        def reduce(tensor: torch.Tensor) -> None:
            self.brought[rank] = tensor.clone()
            self.barrier.wait()
            tensor.copy_(torch.stack(self.brought).sum(0))
            self.barrier.wait()

        return reduce


def load_part(path, shard: Shard, whole: Sum) -> Decoder:
    checkpoint = ShardedCheckpoint(open_checkpoint(resolve(ModelRef(model=str(path)))), shard)
    model_class = load_class(checkpoint.config.architecture)
    model: Decoder = model_class(checkpoint.config, torch.float32, torch.device("cpu"))
    model.load(checkpoint)
    add_up(model, whole.of(shard.rank))
    return model


def logits_of_parts(path, prompt, size: int) -> list[torch.Tensor]:
    whole = Sum(size)

    def run(rank: int) -> torch.Tensor:
        model = load_part(path, Shard(rank, size), whole)
        return PagedModel(model).prefill(prompt, chunk=7)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


@pytest.mark.parametrize("name", [name for name in tiny.RECIPES if name not in UNDIVIDED])
def test_two_parts_have_transformers_logits(name, checkpoints, reference):
    prompt = tiny.prompts()[2]
    expected = tiny.reference_logits(reference(name), prompt)
    for actual in logits_of_parts(checkpoints(name), prompt, 2):
        assert (actual - expected).abs().max() <= TOLERANCE


def test_four_parts_have_transformers_logits(checkpoints, reference):
    prompt = tiny.prompts()[2]
    expected = tiny.reference_logits(reference("llama-mha"), prompt)
    for actual in logits_of_parts(checkpoints("llama-mha"), prompt, 4):
        assert (actual - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("name", "reason"), UNDIVIDED.items())
def test_what_cannot_be_divided_is_refused(name, reason, checkpoints):
    checkpoint = open_checkpoint(resolve(ModelRef(model=str(checkpoints(name)))))
    with pytest.raises(LoadError, match=reason):
        ShardedCheckpoint(checkpoint, Shard(0, 2))


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", ["llama", "qwen3-moe"])
def test_packed_parts_have_the_logits_of_the_packed_whole(name, kind, load_model, tmp_path):
    # 64 and 128 columns: a half is whole blocks of 32.
    reference = tiny.make_model(name, intermediate_size=128, moe_intermediate_size=128)
    path = write_gguf(reference, tmp_path / "model.gguf", kind)
    whole, prompt = load_model(path), tiny.prompts()[2]
    expected = PagedModel(whole).prefill(prompt, chunk=7)
    parts = logits_of_parts(path, prompt, 2)
    for actual in parts:
        assert (actual - expected).abs().max() <= TOLERANCE


def test_blocks_that_a_cut_goes_through_are_unpacked_and_it_is_said(
    reference, load_model, tmp_path, caplog
):
    path = write_gguf(tiny.make_model("llama"), tmp_path / "model.gguf", Type.Q8_0)
    prompt = tiny.prompts()[2]
    expected = PagedModel(load_model(path)).prefill(prompt, chunk=7)
    for actual in logits_of_parts(path, prompt, 2):  # 96 inner columns, 48 each: one and a half
        assert (actual - expected).abs().max() <= TOLERANCE
    assert "down_proj.weight is unpacked: its blocks of 32 columns" in caplog.text
