"""The engine process with the scripted engine: start, steps, death, restart, end."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from engine.config import EngineConfig, SamplingParams
from engine.errors import LoadError
from engine.messages import SequenceOutput, SequenceRequest
from tests.scripted_engine import key_of, plain_ids, token_at
from workers.engine_frames import FrameBuffer, Load, decode_load, frame
from workers.engine_process import EngineDied, EngineProcess

FACTORY = "tests.scripted_engine:load_engine"
ROOT = Path(__file__).parents[2]


def request(name: str = "s", max_tokens: int = 5, seed: int = 1) -> SequenceRequest:
    params = SamplingParams(max_tokens=max_tokens, seed=seed)
    return SequenceRequest(id=name, prompt_ids=[1, 2], params=params)


class Bench:
    """An engine process that runs, and everything it said."""

    def __init__(self, files, factory: str = FACTORY) -> None:
        self.outputs: list[SequenceOutput] = []
        self.deaths = 0
        self.progress: list[tuple[int, int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.engine = EngineProcess(
            factory,
            files,
            EngineConfig(max_seqs=300),
            on_outputs=self.outputs.extend,
            on_death=self.note_death,
            on_progress=lambda done, total: self.progress.append((done, total)),
            gate=self.wait_open,
            log_level="warn",
        )
        self.task: asyncio.Task[None] | None = None

    async def wait_open(self) -> None:
        await self.open.wait()

    def note_death(self) -> None:
        self.deaths += 1

    async def start(self) -> None:
        await self.engine.start()
        self.task = asyncio.create_task(self.engine.run())

    async def until(self, condition) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.002)

    def ids(self, name: str = "s") -> list[int]:
        return [id_ for out in self.outputs if out.id == name for id_ in out.token_ids]

    async def end(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        await self.engine.close()


@pytest.fixture
async def bench(model_files):
    benches = []

    def make(**changes) -> Bench:
        benches.append(Bench(model_files, **changes))
        return benches[-1]

    yield make
    for item in benches:
        await item.end()


async def test_a_sequence_goes_in_and_its_tokens_come_out(bench, model_files):
    engine = bench()
    await engine.start()
    assert engine.progress == [(1, 1)]
    engine.engine.add(request())
    await engine.until(lambda: engine.outputs and engine.outputs[-1].finish)
    vocabulary, key = plain_ids(model_files.directory), key_of([1, 2], 1, 0)
    assert engine.ids() == [token_at(vocabulary, key, position) for position in range(5)]


async def test_a_step_of_many_sequences_is_one_message(bench, monkeypatch):
    monkeypatch.setenv("SCRIPTED_STEP_MS", "20")
    engine = bench()
    await engine.start()
    steps: list[int] = []
    engine.engine._on_outputs = lambda outputs: steps.append(len(outputs))
    for number in range(256):
        engine.engine.add(request(f"s{number}", max_tokens=5))
    await engine.until(lambda: sum(steps) == 256 * 5)
    assert steps == [256] * 5


async def test_a_cancel_ends_a_sequence_and_shows_in_the_gauges(bench, monkeypatch):
    monkeypatch.setenv("SCRIPTED_STEP_MS", "5")
    engine = bench()
    await engine.start()
    engine.engine.add(request(max_tokens=3000))
    await engine.until(lambda: engine.engine.stats.running == 1)
    engine.engine.cancel("s")
    await engine.until(lambda: engine.engine.stats.running == 0)
    count = len(engine.outputs)
    await asyncio.sleep(0.05)
    assert len(engine.outputs) == count


async def test_what_the_engine_refuses_comes_back_as_an_error(bench, monkeypatch):
    monkeypatch.setenv("SCRIPTED_CONTEXT", "2")
    engine = bench()
    await engine.start()
    engine.engine.add(request())
    await engine.until(lambda: engine.outputs)
    assert engine.outputs[0].error is not None
    assert engine.outputs[0].error[0] == "context_length_exceeded"


async def test_a_model_that_cannot_be_loaded_says_why(bench, monkeypatch):
    monkeypatch.setenv("SCRIPTED_LOAD_ERROR", "There is no such model.")
    with pytest.raises(LoadError, match="There is no such model"):
        await bench().start()


async def test_an_engine_that_cannot_be_imported_says_so(bench):
    with pytest.raises(LoadError, match="TRAMONTANE_ENGINE"):
        await bench(factory="tests.scripted_engine:nothing").start()


async def test_a_step_s_error_kills_the_process_and_it_starts_again(
    bench, monkeypatch, tmp_path, capfd
):
    monkeypatch.setenv("SCRIPTED_CRASH_FILE", str(tmp_path / "crash"))
    engine = bench()
    await engine.start()
    first = engine.engine.pid
    (tmp_path / "crash").touch()
    engine.engine.add(request())
    await engine.until(lambda: engine.deaths == 1)
    assert not engine.engine.is_ready
    with pytest.raises(EngineDied):
        engine.engine.add(request())
    await engine.until(lambda: engine.engine.is_ready)
    assert engine.engine.pid != first
    engine.engine.add(request("again"))
    await engine.until(lambda: engine.ids("again"))
    assert "scripted crash" in capfd.readouterr().err


async def test_a_killed_engine_is_noticed_at_once(bench):
    engine = bench()
    await engine.start()
    began_s = time.monotonic()
    os.kill(engine.engine.pid, signal.SIGKILL)
    await engine.until(lambda: engine.deaths == 1)
    assert time.monotonic() - began_s < 0.5


async def test_a_model_that_is_gone_at_the_restart_ends_the_worker(bench, monkeypatch):
    engine = bench()
    await engine.start()
    monkeypatch.setenv("SCRIPTED_LOAD_ERROR", "The file is gone.")
    os.kill(engine.engine.pid, signal.SIGKILL)
    await asyncio.wait([engine.task])
    with pytest.raises(LoadError, match="The file is gone"):
        engine.task.result()


async def test_other_weights_at_the_restart_end_the_worker(bench, monkeypatch):
    """What it was told of the model at the start, its tokenizer too, would be wrong."""
    engine = bench()
    await engine.start()
    monkeypatch.setenv("SCRIPTED_FINGERPRINT", "others")
    os.kill(engine.engine.pid, signal.SIGKILL)
    await asyncio.wait([engine.task], timeout=20)
    with pytest.raises(EngineDied, match="other weights"):
        engine.task.result()
    assert not engine.engine.is_ready


async def test_other_weights_come_beside_the_steps_and_an_idle_engine_takes_them_too(
    bench, monkeypatch, model_files
):
    monkeypatch.setenv("SCRIPTED_REQUANTIZE_MS", "300")
    monkeypatch.setenv("SCRIPTED_STEP_MS", "1")
    engine = bench()
    await engine.start()
    engine.engine.add(request(max_tokens=3000))
    change = asyncio.create_task(engine.engine.requantize("Q8_0"))
    await engine.until(lambda: len(engine.outputs) > 50)
    assert not change.done()
    await change
    assert engine.engine.info.isq == "Q8_0"
    engine.engine.cancel("s")
    await engine.until(lambda: engine.engine.stats.running == 0)
    await asyncio.wait_for(engine.engine.requantize("Q4K"), 20)
    assert engine.engine.info.isq == "Q4K"


async def test_weights_that_cannot_be_had_say_why_and_the_engine_goes_on(bench, monkeypatch):
    monkeypatch.setenv("SCRIPTED_REQUANTIZE_ERROR", "There is no room.")
    engine = bench()
    await engine.start()
    with pytest.raises(LoadError, match="There is no room"):
        await engine.engine.requantize("Q8_0")
    assert engine.engine.info.isq == ""
    engine.engine.add(request())
    await engine.until(lambda: engine.ids())


@pytest.mark.parametrize("is_done", [True, False], ids=["after the swap", "in the middle"])
async def test_an_engine_that_is_killed_comes_back_with_the_weights_that_it_had(
    bench, monkeypatch, is_done
):
    monkeypatch.setenv("SCRIPTED_REQUANTIZE_MS", "0" if is_done else "60000")
    engine = bench()
    await engine.start()
    change = asyncio.create_task(engine.engine.requantize("Q8_0"))
    if is_done:
        await change
    else:
        await asyncio.sleep(0.1)
    first = engine.engine.pid
    os.kill(first, signal.SIGKILL)
    if not is_done:
        with pytest.raises(EngineDied, match="while it loaded the new weights"):
            await change
    await engine.until(lambda: engine.engine.is_ready and engine.engine.pid != first)
    assert engine.engine.info.isq == ("Q8_0" if is_done else "")


async def test_a_restart_with_other_weights_is_a_death_to_what_runs(bench, monkeypatch):
    engine = bench()
    await engine.start()
    engine.engine.restart_with("Q8_0")
    await engine.until(lambda: engine.deaths == 1 and engine.engine.is_ready)
    assert engine.engine.info.isq == "Q8_0"
    engine.engine.add(request())
    await engine.until(lambda: engine.ids())


async def test_an_engine_waits_for_a_reader_that_cannot_keep_up(bench):
    engine = bench()
    await engine.start()
    engine.engine.add(request(max_tokens=2_000_000))
    await engine.until(lambda: engine.outputs)
    engine.open.clear()
    count = len(engine.outputs)
    await asyncio.sleep(0.3)  # it fills the socket's buffers
    stuck = psutil.Process(engine.engine.pid)
    before = sum(stuck.cpu_times()[:2])
    await asyncio.sleep(0.3)
    assert sum(stuck.cpu_times()[:2]) - before < 0.1
    assert len(engine.outputs) <= count + 1
    engine.open.set()
    await engine.until(lambda: len(engine.outputs) > count + 1000)


async def test_an_idle_engine_uses_no_cpu(bench):
    engine = bench()
    await engine.start()
    await asyncio.sleep(0.1)
    process = psutil.Process(engine.engine.pid)
    before = sum(process.cpu_times()[:2])
    await asyncio.sleep(1.0)
    assert sum(process.cpu_times()[:2]) - before <= 0.01


async def test_the_engine_ignores_the_signals_of_its_group(bench):
    engine = bench()
    await engine.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(engine.engine.pid, number)
    engine.engine.add(request())
    await engine.until(lambda: engine.ids())
    assert engine.deaths == 0


def test_the_engine_ends_when_its_parent_is_killed():
    code = f"""
import asyncio
from engine.config import EngineConfig
from engine.weights.files import ModelRef, resolve
from workers.engine_process import EngineProcess
async def main():
    files = resolve(ModelRef(model="builtin"))
    engine = EngineProcess("{FACTORY}", files, EngineConfig(), on_outputs=print)
    await engine.start()
    print(engine.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    with contextlib.suppress(psutil.NoSuchProcess):
        child.wait(5)


def test_frames_survive_any_cut(model_files):
    order = Load(FACTORY, model_files, EngineConfig(max_seqs=3))
    data = frame(order) * 3
    for size in (1, 3, 7, 1000):
        buffer, bodies = FrameBuffer(), []
        for at in range(0, len(data), size):
            bodies += buffer.feed(data[at : at + size])
        assert [decode_load(body) for body in bodies] == [order] * 3
