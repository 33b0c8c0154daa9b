"""Other weights while sequences run: between two steps, and no token is lost or said twice."""

import gc
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch

from engine.errors import LoadError
from engine.messages import SequenceOutput
from tests.engine.hash_model import VOCAB_SIZE, HashModel, ids_of, make_engine, request

Outputs = dict[str, list[SequenceOutput]]
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5]


class OtherModel(HashModel):
    """Other weights of the same shape."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(8)
        self.table = torch.randn(self.table.shape, generator=generator) * 2


class Source:
    """Gives other weights when it is told to, as a file that takes its time."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go = threading.Event()
        self.asked: list[str] = []
        self.error = error
        self.other = OtherModel()

    def __call__(self, isq: str) -> HashModel:
        self.asked.append(isq)
        self.go.wait(20)
        if self.error is not None:
            raise self.error
        return self.other


def run_until(engine, outputs, condition):
    for _ in range(2000):
        if condition():
            return
        for output in engine.step():
            outputs.setdefault(output.id, []).append(output)
    raise AssertionError("it did not come to that")


def taken(engine):
    """What `take_weights` says as soon as it says something."""
    deadline = time.monotonic() + 20
    while (said := engine.take_weights()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return said


def change(engine, source, isq="Q8_0"):
    engine.requantize(isq)
    source.go.set()
    return taken(engine)


VARIANTS = {
    "plenty of blocks": {},
    "few blocks": {"num_blocks": 24},
    "small steps": {"max_num_batched_tokens": 5},
    "no prefix cache": {"enable_prefix_cache": False},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_streams_go_on_with_the_new_weights_from_the_next_token_on(variant):
    old, source = HashModel(), Source()
    engine = make_engine(old, reload=source, **variant)
    texts = {str(n): [(7 * n + i) % VOCAB_SIZE for i in range(5 + n)] for n in range(7)}
    for name, text in texts.items():
        engine.add(request(text, id=name, max_tokens=30))
    outputs: Outputs = {}
    engine.requantize("Q8_0")
    run_until(engine, outputs, lambda: sum(len(said) for said in outputs.values()) >= 40)
    assert engine.take_weights() is None  # and steps went on all the while
    source.go.set()
    before = {name: ids_of(said) for name, said in outputs.items()}
    assert taken(engine) == ""
    assert (source.asked, engine.info.isq) == (["Q8_0"], "Q8_0")
    assert engine.stats().kv_blocks_used == 0
    run_until(engine, outputs, lambda: not engine.has_work())
    for name, text in texts.items():
        said = before.get(name, [])
        assert said == old.continue_greedily(text, len(said))
        rest = source.other.continue_greedily(text + said, 30 - len(said))
        assert ids_of(outputs[name]) == said + rest


def test_nothing_cached_of_the_old_weights_is_hit():
    source = Source()
    engine = make_engine(HashModel(), reload=source)
    outputs: Outputs = {}
    engine.add(request(PROMPT, id="before"))
    run_until(engine, outputs, lambda: not engine.has_work())
    assert change(engine, source) == ""
    engine.add(request(PROMPT, id="after"))
    run_until(engine, outputs, lambda: not engine.has_work())
    assert [output.cached_tokens for output in outputs["after"]] == [0] * 4
    assert ids_of(outputs["after"]) == source.other.continue_greedily(PROMPT, 4)
    engine.add(request(PROMPT, id="again"))
    run_until(engine, outputs, lambda: not engine.has_work())
    assert outputs["again"][0].cached_tokens == 8


def test_a_change_that_fails_leaves_the_weights_and_the_cache_and_says_why():
    old, source = HashModel(), Source(LoadError("There is no room."))
    engine = make_engine(old, reload=source)
    outputs: Outputs = {}
    engine.add(request(PROMPT, max_tokens=20))
    run_until(engine, outputs, lambda: bool(outputs))
    assert change(engine, source) == "There is no room."
    assert (engine.info.isq, engine.is_requantizing) == ("", False)
    assert engine.stats().kv_blocks_used > 0
    run_until(engine, outputs, lambda: not engine.has_work())
    assert ids_of(outputs["a"]) == old.continue_greedily(PROMPT, 20)
    source.error = None
    assert change(engine, source) == ""


def test_a_bug_in_loading_is_a_failure_like_another(caplog):
    source = Source(ZeroDivisionError("by zero"))
    engine = make_engine(HashModel(), reload=source)
    assert change(engine, source) == "Loading the weights failed (ZeroDivisionError: by zero)."
    assert "cannot be loaded" in caplog.text


def test_weights_that_do_not_fit_beside_the_old_ones_are_told_in_words():
    source = Source(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    said = change(make_engine(HashModel(), reload=source), source)
    assert said.startswith("There is not enough memory for the new weights beside the old ones")


def test_one_change_at_a_time():
    source = Source()
    engine = make_engine(HashModel(), reload=source)
    engine.requantize("Q8_0")
    with pytest.raises(LoadError, match="still loading the weights of type Q8_0"):
        engine.requantize("Q4K")
    source.go.set()
    assert taken(engine) == ""


def test_an_engine_without_files_cannot_change():
    engine = make_engine(HashModel())
    assert engine.info.isq_types == ()
    with pytest.raises(LoadError, match="without the model's files"):
        engine.requantize("Q8_0")


def test_the_old_weights_are_given_back():
    old, source = HashModel(), Source()
    engine = make_engine(old, reload=source)
    table = weakref.ref(old.table)
    del old
    assert change(engine, source) == ""
    assert table() is None
    gc.unfreeze()  # what this test's neighbours made would never be collected


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no niceness")
def test_loading_gives_way_to_the_steps():
    source, found = Source(), []

    def load(isq: str) -> HashModel:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return source(isq)

    engine = make_engine(HashModel(), reload=load)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert change(engine, source) == ""
    assert found == [max(own, 10)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def anonymous_mb() -> float:
    """Memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)["RssAnon"].split()[0]) / 1000


def sizes_of_changes() -> list[float]:
    """What this process has after each of some changes, in MB."""

    class Large(OtherModel):
        def __init__(self) -> None:
            super().__init__()
            self.ballast = [torch.ones(200_000 + 1000 * n) for n in range(200)]  # 240 MB

    source = Source()
    source.go.set()
    engine = make_engine(HashModel(), reload=lambda isq: source(isq) and Large())
    sizes: list[float] = []
    for _ in range(6):
        assert change(engine, source) == ""
        deadline = time.monotonic() + 5
        while sizes and anonymous_mb() > sizes[0] + 120 and time.monotonic() < deadline:
            time.sleep(0.05)
        sizes.append(anonymous_mb())
    return sizes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_change_takes_no_memory_that_stays():
    # In a process whose heap has no holes yet, such as those that a thousand tests leave.
    code = "from tests.engine.test_requantize import sizes_of_changes; print(sizes_of_changes())"
    command = [sys.executable, "-c", code]
    sizes = json.loads(subprocess.check_output(command, cwd=Path(__file__).parents[2], timeout=100))
    assert max(sizes) < sizes[0] + 120, sizes
