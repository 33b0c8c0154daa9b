"""The GPU bench without a GPU: every part in small shapes, and what becomes of what goes wrong."""

import json
import sys
import time

import pytest
import torch

from engine.engine import load_generator
from engine.models.llama import LlamaForCausalLM
from engine.weights.files import ModelRef, resolve
from kernels import interpreter
from kernels.cpu import (
    cached_attention as cpu_cached_attention,
    paged_attention as cpu_paged_attention,
)
from kernels.reference.paged_attention import paged_attention
from tests.bench import gpu
from tests.bench.on_gpu import child, smoke, stepping, supervisor, timer
from tests.bench.on_gpu.child import Order
from tests.bench.on_gpu.decode import read_bytes
from tests.bench.on_gpu.models import SHAPES, RandomCheckpoint, shape_of
from tests.bench.on_gpu.names import OURS, PEERS, step_name
from tests.bench.on_gpu.parts import PARTS, Part
from tests.bench.on_gpu.probe import Probe, judged
from tests.bench.on_gpu.report import Results
from tests.bench.on_gpu.row import COPY, LAUNCH, PRODUCT, Ceilings, Row, ceilings_of
from tests.bench.on_gpu.setting import Case, make_setting
from tests.bench.on_gpu.supervisor import run_part
from tests.bench.on_gpu.timer import CpuTimer, CudaTimer
from tests.engine.graph_engine import watch
from tests.engine.late_device import LateDevice
from tests.engine.test_pipeline import num_launched_ahead

SMALL = ["--device", "cpu", "--scale", "tiny"]
ORDER = Order(part="decode", seconds=600, device="cpu", scale="tiny")
CEILINGS = Ceilings(copy_bytes_s=4e12, products_s=8e14, launch_us=1.5)
# Told by a program in the place of child.py, whose own words these are.
TELLS = """
import json, os, sys, time
order = json.loads(sys.argv[1])
file = open(order["lines"], "ab", buffering=0)
def tell(**line):
    file.write(json.dumps(line).encode() + bytes([10]))
def row(name, state="measured"):
    tell(row={"part": order["part"], "name": name, "state": state})
for number, name in enumerate(("good", "bad", "last")):
    if number >= order.get("first", 0):
        tell(begun=name, number=number)
        if name == "bad":
            BAD
        row(name)
"""


def rows_of(order):
    lines: list[child.Line] = []
    child.run(order, lines.append)
    return [line.row for line in lines if line.row is not None]


def measured(part, name, value, **more):
    return Row(part=part, name=name, state="measured", value=value, **more)


@pytest.mark.timeout(300)
@pytest.mark.skipif(not interpreter.is_interpreting(), reason="kernels of this process compile")
@pytest.mark.parametrize("part", PARTS)
def test_every_part_runs_and_finds_nothing_wrong(part):
    interpreter.repair_bfloat16()
    order = Order(part=part, seconds=10_000, device="cpu", scale="tiny", ceilings=CEILINGS)
    rows = rows_of(order)
    assert rows
    assert {row.state for row in rows} <= {"measured", "checked"}, rows
    assert all(row.value is None or row.value > 0 for row in rows)


def test_a_run_writes_where_it_is_told_and_says_that_it_is_no_measurement(tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in gpu.RESULTS.iterdir()}
    out = tmp_path / "gpu.json"
    assert gpu.main([*SMALL, "--only", "ceilings", "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in gpu.RESULTS.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.md"]
    result = json.loads(out.read_text())
    assert result["is_measurement"] is False
    assert {"commit", "torch", "triton", "transformers", "Python"} <= set(result["origin"])
    assert [row["state"] for row in result["rows"]] == ["measured"] * 3
    assert not any(result["targets"].values())
    table = out.with_suffix(".md").read_text()
    assert "**No measurement**" in table
    assert table in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*SMALL, "--out", str(gpu.RESULTS / "gpu.json")], "is for measurements of all parts"),
        (["--device", "cpu"], "add --scale tiny"),
        (["--only", "decode,speed"], "there is no part speed"),
    ],
    ids=["out", "scale", "part"],
)
def test_what_cannot_be_is_refused(arguments, words, capsys):
    with pytest.raises(SystemExit):
        gpu.main(arguments)
    assert words in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_run_for_one_is_refused(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--only", "smoke"])
    assert "there is no GPU; --device cpu --scale tiny" in capsys.readouterr().err


def test_a_step_reads_all_weights_but_the_embedding_and_its_keys_and_values():
    model = LlamaForCausalLM(SHAPES["llama-3-8b"], torch.bfloat16, torch.device("meta"))
    layer = 4096 * (2 * 4096 + 2 * 1024 + 3 * 14336 + 2)
    weights = 32 * layer + 4096 + 128256 * 4096
    assert read_bytes(model, 1000, itemsize=2) == 2 * (weights + 1000 * 2 * 32 * 1024)


def test_what_is_timed_are_steps_of_an_engine_that_decodes_by_graphs(monkeypatch):
    captured: list[str] = []

    class Noting(LateDevice):
        def capture(self, body):
            captured.append("a size")
            return lambda: None

    monkeypatch.setattr(stepping, "choose_graphs", lambda *_: Noting())
    setting = make_setting("cpu", "tiny")
    checkpoint = RandomCheckpoint(shape_of("qwen3-0.6b", is_tiny=True), None, setting.device)
    config = stepping.engine_config(setting, kv_cache_bytes=1 << 20)
    stepping.make_engine(stepping.load(checkpoint, setting), config, setting)
    assert captured


def test_small_models_make_steps_that_a_gpu_is_told_ahead(monkeypatch):
    setting, device = make_setting("cpu", "tiny"), LateDevice(records=False)
    files, config = resolve(ModelRef(model="builtin")), smoke._config(setting, {}, is_device=True)
    # A CPU's own attention has no rows of padding, as it has no graphs.
    monkeypatch.setattr(cpu_cached_attention, "is_native", lambda *_: False)
    monkeypatch.setattr(cpu_paged_attention, "paged_attention", paged_attention)
    expected = smoke._run(load_generator(files, config))
    monkeypatch.setattr("engine.engine.choose_graphs", lambda *_: device)
    engine = load_generator(files, config)
    watch(engine, device)
    assert smoke._run(engine).ids.tolist() == expected.ids.tolist()
    assert num_launched_ahead(device.log) > 5


def test_engine_settings_are_read_as_what_they_say():
    given = ["max_seqs=8", "enable_prefix_cache=false", "kv_cache_dtype=fp8"]
    expected = {"max_seqs": 8, "enable_prefix_cache": False, "kv_cache_dtype": "fp8"}
    assert gpu.settings(given) == expected


def supervised(bad, found=lambda row: None):
    rows: list[Row] = []

    def take(row):
        rows.append(row)
        found(row)

    run_part(ORDER, take, [sys.executable, "-c", TELLS.replace("BAD", bad)])
    return [(row.name, row.state) for row in rows], rows


def test_a_process_that_crashes_costs_its_own_case_only():
    states, rows = supervised('print("illegal address", flush=True); os.abort()')
    assert states == [("good", "measured"), ("bad", "failed"), ("last", "measured")]
    assert "-6" in rows[1].note
    assert "illegal address" in rows[1].note


def test_a_failure_that_was_told_is_told_once_and_the_next_process_goes_on_behind_it():
    states, _ = supervised('row("bad", "failed"); sys.exit(1)')
    assert states == [("good", "measured"), ("bad", "failed"), ("last", "measured")]


class Clock:
    """A clock that jumps by a day when it is told to."""

    def __init__(self):
        self.ahead_s = 0

    def monotonic(self):
        return time.monotonic() + self.ahead_s

    def sleep(self, seconds):
        time.sleep(seconds)

    def jump(self, row):
        if row.name == "slow":
            self.ahead_s = 86400


def test_a_case_that_hangs_ends_with_its_time(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(supervisor, "time", clock)
    states, rows = supervised('row("slow"); time.sleep(1000)', clock.jump)
    assert states[:3] == [("good", "measured"), ("slow", "measured"), ("bad", "failed")]
    assert states[3:] == [("decode", "skipped")]
    assert "out of time" in rows[2].note


def test_a_crash_at_the_end_of_the_time_starts_nothing_more(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(supervisor, "time", clock)
    states, _ = supervised('row("slow", "failed"); sys.exit(1)', clock.jump)
    assert states == [("good", "measured"), ("slow", "failed"), ("decode", "skipped")]


def test_a_process_that_cannot_begin_fails_the_part():
    rows: list[Row] = []
    run_part(ORDER, rows.append, [sys.executable, "-c", "raise SystemExit('no driver')"])
    [row] = rows
    assert (row.name, row.state) == ("decode", "failed")
    assert "no driver" in row.note


def test_an_error_is_told_with_its_place_and_the_next_case_runs(monkeypatch):
    def broken():
        yield measured("decode", "before", 1.0)
        raise ValueError("shape of x: got 1, expected 2")

    def fine():
        yield Row(part="decode", name="after", state="checked")

    cases = [Case("broken", broken), Case("fine", fine)]
    monkeypatch.setattr(Part, "cases", lambda part, setting: cases)
    rows = rows_of(ORDER)
    assert [row.state for row in rows] == ["measured", "failed", "checked"]
    assert rows[1].note.startswith("ValueError at test_gpu.py:")
    assert "expected 2" in rows[1].note


class NoTimer(CpuTimer):
    """Nobody may ask it."""

    def us(self, calls):
        raise AssertionError("a wrong kernel was timed")


@pytest.mark.parametrize(
    "launch",
    [lambda x: 2 * x, lambda x: torch.full_like(x, torch.nan), lambda x: torch.empty_like(x)],
    ids=["other", "nan", "unwritten"],
)
def test_a_kernel_that_is_wrong_is_not_timed(launch):
    setting = make_setting("cpu", "tiny", CEILINGS)._replace(timer=NoTimer())
    x = torch.ones(8)
    row = judged(setting, "x", Probe(launch, (x,), x.double, num_bytes=64))
    assert (row.state, row.value) == ("wrong", None)


def test_the_floor_is_what_takes_longest():
    assert CEILINGS.floor(4e9, 0) == (1000.0, "bytes")
    assert CEILINGS.floor(4e9, 8e12) == (10_000.0, "operations")
    assert CEILINGS.floor(10, 10) == (1.5, "launch")


def test_ceilings_are_those_of_the_rows_or_none():
    rows = [
        measured("ceilings", COPY, 4000.0),
        measured("ceilings", PRODUCT, 800.0),
        measured("ceilings", LAUNCH, 1.5),
    ]
    assert ceilings_of(rows) == CEILINGS
    assert ceilings_of(rows[:2]) is None


def results(rows, is_measurement=True):
    seconds = dict.fromkeys((row.part for row in rows), 1.0)
    return Results(
        is_measurement=is_measurement,
        origin={"commit": "x"},
        options={},
        seconds=seconds,
        rows=rows,
    )


def test_the_table_holds_targets_against_rows():
    rows = [
        measured("decode", step_name("bf16", 1), 5000.0, unit="µs", floor=4000.0, note="15 GB"),
        measured("decode", step_name("Q4_K", 1), 4000.0, unit="µs", floor=1000.0),
        measured(PEERS, OURS, 9000.0, unit="tokens/s"),
        measured(PEERS, "dynamic", 1000.0, unit="tokens/s"),
        measured(PEERS, "static", 1500.0, unit="tokens/s"),
        Row(part="kernels", name="a|b", state="wrong", error=0.5, bound=0.01),
    ]
    table = results(rows).table()
    assert "batch 1, bf16: share of the floor | 75 % | 80 % | met |" in table
    assert "batch 1, Q8_0: share of the floor | 65 % |  |  |" in table
    assert "batch 1, Q4_K: share of the floor | 50 % | 25 % | **missed** |" in table
    assert "| 5.00 | 6.00 | met |" in table
    assert "| 5000 µs | 4000 | 80 % |  | 15 GB |" in table
    assert "| a/b |  |  |  | 5.0e-01 > 1.0e-02 | **wrong** |" in table
    assert not results(rows).is_good
    assert results(rows[:5]).is_good
    assert "met" not in results(rows, is_measurement=False).table()


@pytest.mark.parametrize("num_calls", [1, 7, 900])
def test_a_figure_is_of_one_call_however_often_calls_are_repeated_within_a_graph(
    num_calls, monkeypatch
):
    sizes: list[int] = []

    def capture(calls):
        sizes.append(len(calls))
        return len(calls)

    monkeypatch.setattr(timer, "_capture", capture)
    monkeypatch.setattr(timer, "_replay_us", lambda graph: 2.0 * graph)
    assert CudaTimer().us([lambda: None] * num_calls) == 2.0
    assert 2.0 * sizes[-1] >= 400  # events are far apart
    assert sizes[-1] % num_calls == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_gpus_clock_counts_what_the_gpu_does():
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    once = CudaTimer().us([lambda: target.copy_(source)])
    both = CudaTimer().us([lambda: target.copy_(source), lambda: source.copy_(target)])
    assert 2 * source.nbytes / once / 1e3 > 100  # GB/s
    assert 0.8 < once / both < 1.25
