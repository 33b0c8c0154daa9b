"""How large a cache becomes, on a GPU whose memory is made up, and on this machine."""

import numpy as np
import pytest
import torch

from engine.config import EngineConfig
from engine.errors import LoadError
from engine.memory import Memory
from engine.sizing import cache_capacity, check_settings
from tests.engine.hash_model import CONTEXT_LENGTH, HashModel, make_engine, model_config

GPU, CPU = torch.device("cuda", 1), torch.device("cpu")
BLOCK = 4
BLOCK_BYTES = 2 * BLOCK * 4  # keys and values of one layer and head, of one float32
MB = 1_000_000


def size(device, reserved_bytes=0, model=None, **settings):
    config = EngineConfig(**{"max_seqs": 4, "block_size": BLOCK, **settings})
    check_settings(config)
    args = (model or HashModel(), model_config(), config, device, torch.float32)
    return cache_capacity(*args, reserved_bytes=reserved_bytes)


@pytest.fixture
def gpu(monkeypatch):
    """A device of 1000 MB of which 200 are free, and a step that takes 30."""

    def make(free=200 * MB, total=1000 * MB, step=30 * MB):
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
        monkeypatch.setattr("engine.sizing.peak_bytes", lambda device, run: step)

    make()
    return make


class TestOnAGpu:
    @pytest.mark.parametrize(
        ("settings", "expected_mb"),
        [
            ({}, 200 - 100 - 30),
            ({"memory_usage": 0.9}, 200 - 100 - 30),
            ({"memory_usage": 1.0}, 200 - 30),
            ({"memory_usage": 0.85}, 200 - 150 - 30),
            ({"reserved_bytes": 20 * MB}, 200 - 100 - 30 - 20),
            ({"kv_cache_bytes": 40 * MB}, 40),
            ({"kv_cache_bytes": 169 * MB}, 169),
        ],
        ids=str,
    )
    def test_the_cache_has_what_the_share_leaves_beside_all_that_is_there(
        self, gpu, settings, expected_mb
    ):
        capacity = size(GPU, **settings)
        assert capacity.num_blocks == int(expected_mb * MB) // BLOCK_BYTES
        assert capacity.context_length == CONTEXT_LENGTH

    @pytest.mark.parametrize(("num_tokens", "num_blocks"), [(1, 1), (4, 1), (5, 2), (4000, 1000)])
    def test_or_room_for_so_many_tokens(self, gpu, num_tokens, num_blocks):
        capacity = size(GPU, kv_cache_tokens=num_tokens)
        assert capacity.num_blocks == num_blocks
        assert capacity.context_length == min(CONTEXT_LENGTH, num_blocks * BLOCK)

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            (
                {"memory_usage": 0.8},
                "--pa-gpu-mem-usage 0.8 leaves no room for a KV cache on cuda",
            ),
            ({"memory_usage": 0.83}, "(0.20 of 1.00 GB free, of which the largest step takes 0.03"),
            (
                {"kv_cache_bytes": 180 * MB},
                "of 0.18 GB that is asked for does not fit cuda:1",
            ),
            ({"kv_cache_tokens": 10**8}, "the 0.03 GB of the largest step 0.17 GB are left"),
            ({"reserved_bytes": 70 * MB}, "--pa-gpu-mem-usage 0.9 leaves no room"),
        ],
        ids=["nothing free", "less than the step", "bytes", "tokens", "graphs"],
    )
    def test_what_does_not_fit_beside_the_largest_step_stops_the_start(
        self, gpu, settings, sentence
    ):
        with pytest.raises(LoadError) as caught:
            size(GPU, **settings)
        assert sentence in str(caught.value)
        assert str(caught.value).endswith(".")

    def test_a_step_that_does_not_fit_stops_the_start(self, gpu, monkeypatch):
        def fail(device, run):
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr("engine.sizing.peak_bytes", fail)
        with pytest.raises(LoadError, match=r"2048 tokens in 4 seq.* lower --max-num-batched-tok"):
            size(GPU)

    def test_without_pages_it_has_whole_contexts_and_no_more_than_sequences(self, gpu):
        assert size(GPU, paged_attn=False)[:2] == (4, CONTEXT_LENGTH)
        gpu(free=100 * MB + 30 * MB + 2 * CONTEXT_LENGTH * 2 * 4)
        assert size(GPU, paged_attn=False)[:2] == (2, CONTEXT_LENGTH)


class Heavy(HashModel):
    """Holds 100 MB in a forward."""

    def forward(self, batch, kv_cache):
        held = np.ones(100 * MB, np.uint8)
        hidden = super().forward(batch, kv_cache)
        assert held.all()
        return hidden


@pytest.fixture
def machine(monkeypatch):
    def make(free_mb, total_mb=1000):
        memory = Memory(free_mb * MB, total_mb * MB)
        monkeypatch.setattr("engine.sizing.memory_of", lambda device: memory)

    return make


class TestOnACpu:
    def test_nothing_is_run_and_all_contexts_are_enough(self):
        model = HashModel()
        assert size(CPU, model=model).num_blocks == 4 * CONTEXT_LENGTH // BLOCK
        assert model.num_forwards == 0

    def test_a_share_is_of_the_machines_memory_and_the_step_is_measured(self, machine):
        machine(500)
        model = Heavy()
        capacity = size(CPU, model=model, memory_usage=0.75)
        left_mb = capacity.num_blocks * BLOCK_BYTES / MB
        assert 500 - 250 - 100 - 24 < left_mb <= 500 - 250 - 95
        assert model.num_forwards == 1

    def test_processes_that_share_the_model_share_it_too(self, machine):
        machine(500)
        whole, part = (size(CPU, memory_usage=0.75, tensor_parallel=n).num_blocks for n in (1, 2))
        assert part * BLOCK_BYTES / MB == pytest.approx(whole * BLOCK_BYTES / MB / 2, abs=24)

    def test_a_share_that_is_in_use_already_stops_the_start(self, machine):
        machine(100)
        with pytest.raises(LoadError, match=r"--pa-gpu-mem-usage 0.9 .* raise it"):
            size(CPU, memory_usage=0.9)

    @pytest.mark.parametrize("settings", [{"kv_cache_bytes": 101 * MB}, {"kv_cache_tokens": 10**8}])
    def test_more_than_is_free_stops_the_start(self, machine, settings):
        machine(100)
        with pytest.raises(LoadError, match=r"does not fit the memory of the machine \(0.10 of"):
            size(CPU, **settings)

    def test_an_engine_has_the_tokens_that_were_asked_for(self):
        assert make_engine(kv_cache_tokens=119).info.kv_tokens == 120


@pytest.mark.parametrize(
    "settings",
    [
        {"max_seqs": 0},
        {"block_size": 0},
        {"max_num_batched_tokens": 3},
        {"kv_cache_bytes": 1, "memory_usage": 0.5},
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_stop_the_start(settings):
    with pytest.raises(LoadError):
        size(CPU, **settings)
