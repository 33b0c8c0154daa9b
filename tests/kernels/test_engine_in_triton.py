"""The whole engine through the Triton kernels: the tokens of the plain path, step for step."""

import importlib

import msgspec
import pytest

from engine.config import EngineConfig
from engine.engine import load_engine
from kernels import interpreter, ops
from tests.engine import tiny_llama
from tests.engine.graph_engine import watch
from tests.engine.hash_model import drain, ids_of, request
from tests.engine.late_device import LateDevice

PROMPTS = [[5, 90, 33, 7, 61], list(range(10, 33))]
# The first decodes beside the second's last piece.
LONG_PROMPTS = [[token * length % 90 for token in range(1, length + 1)] for length in (33, 20)]
# Steps that decode only, and steps with a prompt or a piece of one.
LAUNCHERS = {
    *("add_rms_norm", "decode_attention", "paged_attention", "rms_norm", "silu_mul"),
    *("write_heads",),
}


@pytest.fixture(scope="module")
def make_engine(tmp_path_factory):
    files = tiny_llama.write(tmp_path_factory.mktemp("llama"))
    config = EngineConfig(max_seqs=2, max_num_batched_tokens=16, block_size=16, device="cpu")
    return lambda **changes: load_engine(files, msgspec.structs.replace(config, **changes))


def run(engine, prompts=PROMPTS, max_tokens=4):
    for index, prompt in enumerate(prompts):
        engine.add(request(prompt, id=str(index), max_tokens=max_tokens))
    return {key: ids_of(outputs) for key, outputs in drain(engine).items()}


@pytest.fixture
def launched(launcher, monkeypatch):
    """The launchers that were called."""
    seen = set()

    def watch(name, launch):
        def watched(*arguments):
            seen.add(name)
            return launch(*arguments)

        monkeypatch.setattr(f"kernels.{name}.{name}", watched)

    for name in LAUNCHERS:
        launcher(name)
        watch(name, getattr(importlib.import_module(f"kernels.{name}"), name))
    return seen


interpreted = pytest.mark.skipif(
    not interpreter.is_interpreting(), reason="kernels of this process compile"
)


@pytest.mark.timeout(400)
@interpreted
def test_greedy_tokens_are_those_of_the_plain_path(make_engine, launched, monkeypatch):
    expected = run(make_engine())
    assert not launched
    monkeypatch.setattr(ops, "_takes_kernel", lambda tensor: True)
    assert run(make_engine()) == expected
    assert launched == LAUNCHERS
    assert expected["0"] != expected["1"]


@pytest.mark.timeout(400)
@interpreted
def test_so_are_those_of_steps_as_graphs_do_them(make_engine, launched, launcher, monkeypatch):
    expected = run(make_engine())
    monkeypatch.setattr(ops, "_takes_kernel", lambda tensor: True)
    device = LateDevice(records=False)
    monkeypatch.setattr("engine.engine.choose_graphs", lambda *_: device)
    engine = make_engine()
    watch(engine, device)
    assert run(engine) == expected
    assert launched == LAUNCHERS
    assert device.log[:3] == ["launch 1", "launch 2", "wait 1"]


@pytest.mark.usefixtures("launched")
@interpreted
def test_a_decode_beside_a_prompt_is_split_over_its_context(make_engine, monkeypatch):
    paged_attention = importlib.import_module("kernels.paged_attention")
    attend, splits = paged_attention.attend_single_rows, []

    def watched(*arguments):
        rows = tuple(arguments[4].diff().tolist())
        splits.append((rows, attend(*arguments)))
        return splits[-1][1]

    expected = run(make_engine(), LONG_PROMPTS, max_tokens=2)
    monkeypatch.setattr("kernels.decode_attention.MIN_MIXED_TILES", 2)
    monkeypatch.setattr(paged_attention, "attend_single_rows", watched)
    monkeypatch.setattr(ops, "_takes_kernel", lambda tensor: True)
    assert run(make_engine(), LONG_PROMPTS, max_tokens=2) == expected
    assert list(dict.fromkeys(splits)) == [((16,), False), ((1, 15), True), ((1, 5), True)]
