"""The KV tensors."""

import psutil
import torch

from engine.kv_cache import allocate, bytes_per_block
from tests.engine.hash_model import model_config

CONFIG = model_config(num_layers=3, num_kv_heads=2, head_dim=8)


def test_each_layer_has_its_own_contiguous_zeros():
    cache = allocate(CONFIG, 5, 4, torch.float16, torch.device("cpu"))
    assert len(cache) == 3
    tensors = [tensor for pair in cache for tensor in pair]
    for number, tensor in enumerate(tensors):
        assert tensor.shape == (5, 4, 2, 8)
        assert tensor.dtype == torch.float16
        assert tensor.is_contiguous()
        assert not tensor.any()
        tensor.fill_(number + 1)
    assert [int(tensor.float().mean()) for tensor in tensors] == [1, 2, 3, 4, 5, 6]


def test_blocks_that_nobody_used_cost_no_memory_on_a_cpu():
    before = psutil.Process().memory_info().rss
    cache = allocate(CONFIG, 1 << 20, 4, torch.float32, torch.device("cpu"))
    assert sum(tensor.nbytes for pair in cache for tensor in pair) > 1 << 30
    assert psutil.Process().memory_info().rss - before < 64 << 20


def test_a_block_takes_the_bytes_that_are_allocated_for_it():
    cache = allocate(CONFIG, 5, 4, torch.float16, torch.device("cpu"))
    total = sum(tensor.nbytes for pair in cache for tensor in pair)
    assert bytes_per_block(CONFIG, 4, torch.float16) * 5 == total


def test_a_model_without_layers_needs_no_memory():
    config = model_config(num_layers=0)
    assert allocate(config, 5, 4, torch.float32, torch.device("cpu")) == []
    assert bytes_per_block(config, 4, torch.float32) == 1
