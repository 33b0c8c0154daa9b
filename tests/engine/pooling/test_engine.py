"""The queue of texts and what a step takes of it, with a model that counts."""

import numpy as np
import pytest
import torch

from engine.config import EngineConfig, SamplingParams
from engine.errors import InvalidInput, LoadError, OutOfMemory, PromptTooLong
from engine.messages import EngineInfo, SequenceOutput, SequenceRequest
from engine.pooling.engine import PoolingEngine

PARAMS = SamplingParams(max_tokens=0)


class Model:
    """Its states are the ids themselves; keeps the lengths of each step."""

    def __init__(self):
        self.steps = []

    def __call__(self, batch):
        self.steps.append(list(batch.lengths))
        return batch.token_ids[:, None].float()


class Sum:
    size = 1

    def __call__(self, hidden, batch):
        parts = hidden.split(list(batch.lengths))
        return torch.stack([part.sum(0) for part in parts])


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def engine(model):
    info = EngineInfo(
        context_length=12,
        vocab_size=100,
        kv_tokens=12,
        max_seqs=2,
        device="cpu",
        dtype="float32",
        task="embed",
        vector_size=1,
    )
    config = EngineConfig(max_num_batched_tokens=10, max_seqs=2)
    return PoolingEngine(model, Sum(), info, config, torch.device("cpu"))


def add(engine, *lengths):
    for number, length in enumerate(lengths):
        ids = [number + 1] * length
        engine.add(SequenceRequest(id=str(number), prompt_ids=ids, params=PARAMS))


def value(output):
    return np.frombuffer(output.vector, dtype="<f4").item()


def test_a_step_takes_the_oldest_texts_that_fit_the_budget_together(engine, model):
    add(engine, 4, 4, 2, 9, 1, 1)
    made = []
    while engine.has_work():
        made.append([output.id for output in engine.step()])
    assert made == [["0", "1", "2"], ["3", "4"], ["5"]]
    assert model.steps == [[4, 4, 2], [9, 1], [1]]


def test_each_text_gets_its_own_vector_and_ends(engine):
    add(engine, 4, 1, 3)
    outputs = engine.step()
    assert [value(output) for output in outputs] == [4.0, 2.0, 9.0]
    assert {output.finish for output in outputs} == {"stop"}
    assert not engine.has_work()
    assert engine.step() == []


def test_a_text_longer_than_the_budget_runs_alone(engine, model):
    add(engine, 12, 1)
    while engine.has_work():
        engine.step()
    assert model.steps == [[12], [1]]


def test_a_cancelled_text_is_not_computed(engine, model):
    add(engine, 4, 3, 2)
    engine.cancel("1")
    engine.cancel("unknown")
    assert [output.id for output in engine.step()] == ["0", "2"]
    assert model.steps == [[4, 2]]


def test_the_gauges_tell_how_many_wait(engine):
    add(engine, 9, 9, 9)
    assert engine.stats().waiting == 3
    engine.step()
    assert engine.stats().waiting == 2


def test_a_text_that_can_never_run_is_refused_and_not_queued(engine):
    with pytest.raises(PromptTooLong) as refused:
        add(engine, 13)
    assert refused.value.param == "input"
    with pytest.raises(InvalidInput, match="no tokens"):
        add(engine, 0)
    with pytest.raises(InvalidInput, match="-1 is no token id"):
        engine.add(SequenceRequest(id="a", prompt_ids=[5, -1], params=PARAMS))
    assert not engine.has_work()


def test_an_id_that_waits_already_is_refused(engine):
    add(engine, 3)
    with pytest.raises(InvalidInput, match="already here"):
        add(engine, 3)


def test_the_type_of_the_weights_stays(engine):
    with pytest.raises(LoadError, match="cannot change"):
        engine.requantize("Q8_0")
    assert not engine.is_requantizing
    assert engine.take_weights() is None


class TestMemoryThatRunsOut:
    """`fits` says of the lengths of a step whether they do."""

    @pytest.fixture
    def limit(self, engine, monkeypatch):
        def limit(fits):
            states = engine._states

            def limited(batch):
                hidden = states(batch)
                if not fits(list(batch.lengths)):
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                return hidden

            monkeypatch.setattr(engine, "_states", limited)

        return limit

    def run_all(self, engine):
        made: dict[str, SequenceOutput] = {}
        for _ in range(200):
            if not engine.has_work():
                return made
            made |= {output.id: output for output in engine.step()}
        raise AssertionError("the engine did not come to an end")

    def test_texts_run_in_smaller_steps_and_each_has_its_vector(self, engine, model, limit):
        limit(lambda lengths: sum(lengths) <= 3)
        add(engine, 2, 2, 1, 3, 1)
        made = self.run_all(engine)
        assert {name: value(output) for name, output in made.items()} == {
            "0": 2.0,
            "1": 4.0,
            "2": 3.0,
            "3": 12.0,
            "4": 5.0,
        }
        assert model.steps[:3] == [[2, 2, 1, 3, 1], [2, 2], [2]]

    def test_once_is_soon_forgotten(self, engine, model, limit):
        bad = [True]
        limit(lambda lengths: not bad.pop() if bad else True)
        add(engine, 4, 4)
        self.run_all(engine)
        for _ in range(200):
            add(engine, 1)
            self.run_all(engine)
        add(engine, 4, 4, 2)
        assert len(engine.step()) == 3

    def test_a_text_that_does_not_fit_alone_is_an_error_and_the_others_are_made(
        self, engine, limit
    ):
        limit(lambda lengths: 7 not in lengths)
        add(engine, 2, 7, 3)
        made = self.run_all(engine)
        code, message = made["1"].error
        assert (code, message.startswith("An input of 7 tokens")) == ("out_of_memory", True)
        assert [value(made[name]) for name in "02"] == [2.0, 9.0]

    def test_where_nothing_fits_the_engine_gives_up_and_no_text_is_lost(self, engine, limit):
        room = [0]
        limit(lambda lengths: sum(lengths) <= room[0])
        add(engine, 4, 4, 2)
        with pytest.raises(OutOfMemory, match="Not even a step of one token"):
            self.run_all(engine)
        room[0] = 100
        assert {name: value(made) for name, made in self.run_all(engine).items()} == {
            "0": 4.0,
            "1": 8.0,
            "2": 6.0,
        }
