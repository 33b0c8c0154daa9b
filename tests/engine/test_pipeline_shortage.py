"""Steps that the device is told ahead where memory runs out: no token becomes another one."""

import random

import pytest
import torch

from tests.engine.graph_engine import make_graph_engine
from tests.engine.hash_model import make_engine
from tests.engine.test_pipeline import EOS, num_launched_ahead, play, script, told

VARIANTS = {
    "plenty": {},
    "few blocks": {"num_blocks": 24},
    "blocks of one token, no prefix cache": {"block_size": 1, "enable_prefix_cache": False},
    "small steps": {"max_num_batched_tokens": 5, "max_seqs": 5},
}


class Failing:
    """Calls `function`, but is now and then out of memory, before it or behind it."""

    def __init__(self, function, rng, rate):
        self.function, self.rng, self.rate = function, rng, rate
        self.num_failures = 0

    def __call__(self, *args, **kwargs):
        luck = self.rng.random()
        if luck < self.rate / 2:
            self.fail()
        result = self.function(*args, **kwargs)
        if luck > 1 - self.rate / 2:
            self.fail()
        return result

    def fail(self):
        self.num_failures += 1
        raise torch.OutOfMemoryError("CUDA out of memory.")


def spoil(engine, rng, rate):
    """Let the places fail in which a step asks for memory; those that count their failures."""
    runner = engine._steps._runner
    graphs = runner._graphs
    places = [
        (engine._runner, "compute"),
        (engine._runner, "sample"),
        (graphs, "launch"),
        (graphs.state, "extend"),
        (graphs.state, "stand"),
        (runner._device, "upload"),
    ]
    failing = []
    for owner, name in places:
        failing.append(Failing(getattr(owner, name), rng, rate))
        setattr(owner, name, failing[-1])
    return failing


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_streams_are_those_of_an_engine_that_has_all_memory(variant, monkeypatch):
    monkeypatch.setattr("engine.careful.PAUSES_S", (0.0,) * 20)
    monkeypatch.setattr("engine.careful._MAX_BLAME", 10**6)  # it is bad luck alone
    num_ahead, num_failures, num_told = 0, [0] * 6, 0
    for seed in range(6):
        actions = script(seed)
        expected = play(make_engine(eos=(EOS,), **variant), actions)
        engine, device = make_graph_engine(eos=(EOS,), **variant)
        failing = spoil(engine, random.Random(seed), rate=0.03)
        got = play(engine, actions)
        for name in got.keys() & expected.keys():
            assert got[name][-1].error is None
            if got[name][-1].finish and expected[name][-1].finish:  # neither was cancelled
                num_told += 1
                assert told(got[name]) == told(expected[name]), (seed, name)
        stats = engine.stats()
        assert (stats.kv_blocks_used, stats.running, stats.waiting) == (0, 0, 0)
        num_ahead += num_launched_ahead(device.log)
        num_failures = [
            count + item.num_failures for count, item in zip(num_failures, failing, strict=True)
        ]
    assert num_ahead > 20
    assert num_told > 15
    assert sum(num_failures) > 20, num_failures
