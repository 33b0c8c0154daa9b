"""Which engines decode by graphs, for which batch sizes, and what that takes."""

import logging

import msgspec
import pytest
import torch

from engine.capacity import Capacity
from engine.config import EngineConfig
from engine.decode_graphs import DecodeGraphs, bucket_sizes
from engine.engine import load_generator
from engine.errors import LoadError
from engine.graph_setup import choose_graphs, extrapolate, graph_bytes, why_eager
from engine.kv_cache import allocate
from tests.engine import tiny_llama
from tests.engine.graph_engine import GraphHashModel, make_graph_engine
from tests.engine.hash_model import (
    VOCAB_SIZE,
    drain,
    ids_of,
    make_engine,
    model_config,
    request,
)
from tests.engine.late_device import LateDevice

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("max_seqs", "sizes"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (8, [1, 2, 4, 8]),
        (30, [1, 2, 4, 8, 16, 24, 30]),
        (32, [1, 2, 4, 8, 16, 24, 32]),
    ],
)
def test_there_is_a_graph_for_about_each_batch_size(max_seqs, sizes):
    assert bucket_sizes(max_seqs) == sizes


def test_large_batches_are_padded_by_a_little_at_most():
    sizes = bucket_sizes(512)
    assert (len(sizes), sizes[-1]) == (51, 512)
    assert all(size in sizes for size in range(8, 257, 8))


def test_a_cpu_engine_has_no_graphs_and_says_nothing(caplog):
    with caplog.at_level(logging.INFO):
        assert choose_graphs(EngineConfig(), GraphHashModel(), CPU) is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"enforce_eager": True}, "--enforce-eager"), ({"tensor_parallel": 2}, "several processes")],
)
def test_an_engine_on_a_gpu_says_why_it_has_none(changes, reason, caplog):
    config = msgspec.structs.replace(EngineConfig(), **changes)
    with caplog.at_level(logging.INFO):
        assert choose_graphs(config, GraphHashModel(), torch.device("cuda")) is None
    assert f"eager: {why_eager(config, GraphHashModel())}" in caplog.text
    assert reason in caplog.text


class Measured(LateDevice):
    """Takes 100 bytes for the first graph and what it works with, 7 for each other."""

    def __init__(self):
        super().__init__()
        self.graphs = 0
        self.forgotten = 0

    def capture(self, body):
        self.graphs += 1
        return super().capture(body)

    def forget(self):
        self.forgotten += 1
        self.graphs = 0

    def used_bytes(self):
        return 1000 + (93 + 7 * self.graphs if self.graphs else 0)


def test_what_all_graphs_take_is_told_by_two():
    device = Measured()
    config = EngineConfig(max_seqs=16, max_model_len=40, block_size=4)
    taken = graph_bytes(GraphHashModel(), model_config(), config, torch.float32, device)
    assert taken == 100 + 7 * (len(bucket_sizes(16)) - 1)
    assert (device.graphs, device.forgotten, device.num_captures) == (0, 2, 3)


@pytest.mark.parametrize(
    ("one", "two", "expected"), [(50, 60, 50 + 4 * 10), (50, 40, 50), (-5, -9, 0)]
)
def test_memory_that_others_gave_back_meanwhile_counts_for_nothing(one, two, expected):
    assert extrapolate(one, two, 5) == expected


def test_the_log_says_what_was_captured(caplog):
    with caplog.at_level(logging.INFO):
        make_graph_engine()
    assert "the decode step is captured for 3 batch sizes up to 4" in caplog.text


def test_graphs_that_do_not_fit_beside_the_cache_are_not_laid_to_the_model():
    class Short(LateDevice):
        def capture(self, body):
            if self.num_captures == 4:  # three told what all take
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().capture(body)

    with pytest.raises(LoadError, match=r"^The graphs of all .* lower --pa-gpu-mem or --pa-gpu-me"):
        make_engine(GraphHashModel(), graph_device=Short())


def test_a_capture_and_its_padding_write_no_keys_and_move_no_row():
    device, capacity = LateDevice(), Capacity(6, 4, 24)
    cache = allocate(model_config(), 6, 4, torch.float32, CPU)
    cells = [cells for pair in cache for cells in pair]
    graphs = DecodeGraphs(cache, capacity, 8, VOCAB_SIZE, device, has_rope_sets=False)
    graphs.capture(GraphHashModel())
    state = graphs.state
    assert not any(tensor.any() for tensor in (*cells, state.numbers, state.tables))
    where = [tensor.data_ptr() for tensor in (state.numbers, graphs.ids, graphs.logits)]
    rows = torch.tensor([5, 2, 7]).numpy()
    state.stand(rows, last_ids=rows + 20, lengths=rows)
    for row in rows.tolist():
        state.extend([row, row], [0, 1], [row % 3, row % 3 + 3])
    for _ in range(3):
        graphs.launch(rows)
        device.drain()
    assert state.numbers[1].tolist() == [0, 0, 5, 0, 0, 8, 0, 10, 0]
    assert not state.numbers[:, state.dummy].any()
    assert sum(int((key > 0).sum()) for key, _ in cache) == 9
    assert [t.data_ptr() for t in (state.numbers, graphs.ids, graphs.logits)] == where


@pytest.mark.gpu
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_graphs_of_a_gpu_say_what_its_eager_steps_say(temperature, tmp_path):
    files = tiny_llama.write(tmp_path / "llama")
    said = []
    for enforce_eager in (True, False):
        config = EngineConfig(
            device="cuda",
            dtype="float32",
            max_seqs=6,
            max_num_batched_tokens=32,
            kv_cache_bytes=4_000_000,
            enforce_eager=enforce_eager,
        )
        engine = load_generator(files, config)
        for index in range(9):
            prompt = [(11 * index + i) % 110 + 3 for i in range(3 + 4 * index)]
            params = {"temperature": temperature, "seed": index, "max_tokens": 20 + index}
            engine.add(request(prompt, id=str(index), **params))
        said.append({key: ids_of(outputs) for key, outputs in drain(engine).items()})
    assert said[0] == said[1]
