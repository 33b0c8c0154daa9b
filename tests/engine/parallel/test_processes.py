"""Two processes share a model: the tokens are transformers', and none of them goes on alone."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import torch

from engine.config import EngineConfig
from engine.engine import load_engine
from engine.errors import LoadError, OutOfMemory
from engine.parallel import follower, leader
from engine.parallel.shard import Shard
from engine.paths import encode_path
from engine.weights.files import ModelRef, resolve
from tests.engine.models import tiny
from tests.engine.models.test_greedy import by_engine, by_transformers

CONFIG = EngineConfig(
    device="cpu",
    dtype="float32",
    max_seqs=4,
    max_num_batched_tokens=11,
    kv_cache_bytes=1 << 22,
    tensor_parallel=2,
)
LOAD_AND_WAIT = """
import sys, time
from tests.engine.parallel.test_processes import CONFIG, resolve, ModelRef, load_engine
engine = load_engine(resolve(ModelRef(model=sys.argv[1])), CONFIG)
print("loaded", flush=True)
time.sleep(600)
"""


def followers(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children()
    living = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if "engine.parallel.follower" in child.cmdline()]


@pytest.fixture
def files(checkpoints):
    return lambda name: resolve(ModelRef(model=str(checkpoints(name))))


def test_greedy_tokens_are_transformers_alone_mixed_chunked_and_cached(files, reference):
    engine = load_engine(files("llama"), CONFIG)
    prompts = tiny.prompts()
    expected = [by_transformers(reference("llama"), prompt) for prompt in prompts]
    assert by_engine(engine, prompts[-1:]) == expected[-1:]
    assert by_engine(engine, prompts) == expected
    assert engine.stats().prefix_hits > 0
    assert len(followers(os.getpid())) == 1
    del engine
    assert not followers(os.getpid())


def test_an_engine_that_lost_a_process_takes_no_further_step(files):
    engine = load_engine(files("llama3"), CONFIG)
    (follower,) = followers(os.getpid())
    assert by_engine(engine, tiny.prompts()[:1])
    follower.kill()
    with pytest.raises(leader.GroupBroken, match=r"process 1 of --tensor-parallel .* code -9"):
        by_engine(engine, tiny.prompts()[:1])


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()],
    ids=["the device's", "the system's"],
)
def test_a_step_that_does_not_fit_one_of_them_is_not_tried_again(error, files, monkeypatch):
    """The other one is in the middle of it."""

    def fail(*_):
        raise error

    engine: Any = load_engine(files("llama3"), CONFIG)
    monkeypatch.setattr(engine._runner.model._model, "forward", fail)
    with pytest.raises(OutOfMemory, match="lower --max-num-batched-tokens"):
        by_engine(engine, tiny.prompts()[:1])


def test_a_process_that_has_no_memory_says_so_by_its_code(monkeypatch, capsysbinary):
    order = follower.Order(Shard(1, 2), Path("x"), resolve(ModelRef(model="builtin")), CONFIG)

    def fail(_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    line = msgspec.json.encode(order, enc_hook=encode_path) + b"\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line)))
    monkeypatch.setattr(follower, "follow", fail)
    monkeypatch.setattr(follower, "_end_with_stdin", lambda: None)
    code = follower.main()
    group = leader.Followers.__new__(leader.Followers)
    group._processes = [subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])]
    group._processes[0].wait()
    with pytest.raises(OutOfMemory):
        group.check()


def test_a_process_that_dies_while_it_loads_is_told_at_once(files, monkeypatch):
    class Killed(leader.Followers):
        def check(self, wait_s: float = 0.0) -> None:
            for process in self._processes:
                process.kill()
            super().check(wait_s)

    monkeypatch.setattr(leader, "Followers", Killed)
    earlier = followers(os.getpid())  # of engines that the collector has not come by yet
    with pytest.raises(LoadError, match=r"ended with code -9 while it loaded"):
        load_engine(files("llama"), CONFIG)
    assert set(followers(os.getpid())) <= set(earlier)


def test_what_a_model_cannot_share_is_said_before_a_process_starts(files, monkeypatch):
    monkeypatch.setattr(leader, "Followers", None)
    with pytest.raises(LoadError, match="num_kv_heads is 1, which 2 processes cannot share"):
        load_engine(files("gemma-mqa"), CONFIG)


def test_no_process_outlives_a_killed_leader(checkpoints):
    command = [sys.executable, "-c", LOAD_AND_WAIT, str(checkpoints("llama"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"loaded\n"
        (follower,) = followers(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
    follower.wait(20)
