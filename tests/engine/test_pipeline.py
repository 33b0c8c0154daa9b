"""Steps that the device is told ahead: the tokens of an engine that takes them one by one."""

import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch

from engine.engine import Engine
from engine.errors import OutOfMemory
from engine.messages import SequenceOutput
from tests.engine.graph_engine import GraphHashModel, make_graph_engine
from tests.engine.hash_model import VOCAB_SIZE, HashModel, drain, ids_of, make_engine, request

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5]
EOS = 11


def params(rng):
    """What a sequence asks for: mostly what a graph samples."""
    kinds = [
        {},
        {"temperature": 0.9},
        {"temperature": 1.3, "top_k": 12, "top_p": 0.9},
        {"temperature": 0.7, "min_p": 0.05},
        {"temperature": 1.0, "ignore_eos": True},
        {"temperature": 0.8, "min_tokens": 5},
        {"temperature": 0.9, "repetition_penalty": 1.2, "presence_penalty": 0.3},
        {"logit_bias": {EOS: 3.0}},
        {"num_logprobs": 2},
        {"num_prompt_logprobs": 1, "temperature": 0.9},
        {"bad_words": ((7,), (1, 2))},
    ]
    weights = [4, 6, 4, 4, 4, 2, 1, 1, 1, 1, 1]
    [kind] = rng.choices(kinds, weights)
    return {**kind, "seed": rng.randrange(1 << 40), "max_tokens": rng.randint(1, 30)}


def script(seed):
    """By step: what is added and cancelled before it."""
    rng = random.Random(seed)
    actions: dict[int, list[Callable[[Engine], None]]] = {}
    num_sequences = rng.choice([3, 8, 14])
    spread = rng.choice([1, 30, 80])
    for index in range(num_sequences):
        prompt = [rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 30))]
        if rng.random() < 0.3:
            prompt = PROMPT * 2 + prompt[:5]
        step = rng.randrange(spread)
        added = request(prompt, id=str(index), **params(rng))
        actions.setdefault(step, []).append(partial(Engine.add, request=added))
        if rng.random() < 0.3:
            after = step + rng.randint(1, 25)
            cancel = partial(Engine.cancel, sequence_id=str(index))
            actions.setdefault(after, []).append(cancel)
    return actions


def play(engine, actions):
    outputs: dict[str, list[SequenceOutput]] = {}
    for number in range(3000):
        for act in actions.get(number, ()):
            act(engine)
        if number > max(actions) and not engine.has_work():
            return outputs
        if engine.has_work():
            for output in engine.step():
                outputs.setdefault(output.id, []).append(output)
    raise AssertionError("the engine did not come to an end")


def told(outputs):
    """All that a sequence's outputs say, however they were cut into steps."""
    logprobs = [item for output in outputs for item in output.logprobs]
    described = [item for output in outputs for item in output.prompt_logprobs]
    return ids_of(outputs), logprobs, described, outputs[-1].finish


VARIANTS = {
    "plenty": {},
    "few blocks": {"num_blocks": 24},
    "few blocks, no prefix cache": {"num_blocks": 24, "enable_prefix_cache": False},
    "blocks of one token": {"block_size": 1, "max_seqs": 6},
    "small steps": {"max_num_batched_tokens": 5, "max_seqs": 5},
    "one block per sequence": {"paged_attn": False, "max_seqs": 3},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_streams_are_those_of_an_engine_that_takes_one_step_after_the_other(variant):
    num_ahead = num_preemptions = num_cut = 0
    for seed in range(6):
        expected = play(make_engine(eos=(EOS,), **variant), script(seed))
        engine, device = make_graph_engine(eos=(EOS,), **variant)
        got = play(engine, script(seed))
        for name in got.keys() | expected.keys():
            pair = [told_by.get(name, []) for told_by in (got, expected)]
            if all(outputs and outputs[-1].finish for outputs in pair):
                assert told(pair[0]) == told(pair[1]), (seed, name)
            else:  # it was cancelled, at another token
                num_cut += 1
                both = zip(*map(ids_of, pair), strict=False)
                assert all(one == other for one, other in both), (seed, name)
        stats = engine.stats()
        assert (stats.kv_blocks_used, stats.running, stats.waiting) == (0, 0, 0)
        num_ahead += num_launched_ahead(device.log)
        num_preemptions += stats.num_preemptions
    assert num_ahead > 40
    assert num_cut > 0
    assert (num_preemptions > 0) == ("num_blocks" in variant)


def num_launched_ahead(log):
    """How many steps were launched just before the one before them was waited for."""
    pairs = [(entry.split(), behind.split()) for entry, behind in pairwise(log)]
    return sum(
        (kind, other) == ("launch", "wait") and int(ahead) == int(waited) + 1
        for (kind, ahead), (other, waited) in pairs
    )


def test_each_step_tells_what_it_tells_one_by_one_where_nobody_comes_or_waits():
    rng = random.Random(5)
    requests = [
        request(
            [rng.randrange(VOCAB_SIZE) for _ in range(9)],
            id=str(index),
            temperature=0.9,
            seed=index,
            max_tokens=rng.randint(5, 40),
        )
        for index in range(4)
    ]
    steps: list[list[list[SequenceOutput]]] = []
    for engine in (make_engine(eos=(EOS,)), make_graph_engine(eos=(EOS,))[0]):
        for item in requests:
            engine.add(item)
        steps.append([])
        while engine.has_work():
            steps[-1].append(engine.step())
    assert steps[0] == steps[1]
    finishes = [output.finish for outputs in steps[0] for output in outputs if output.finish]
    assert sorted(set(finishes)) == ["length", "stop"]


def test_a_step_is_launched_before_the_one_before_it_is_waited_for():
    engine, device = make_graph_engine()
    engine.add(request(PROMPT, max_tokens=6))
    drain(engine)
    # The prompt's step is no graph's; the last token is known to be the last.
    assert device.log == [
        *("launch 1", "launch 2", "wait 1", "launch 3", "wait 2"),
        *("launch 4", "wait 3", "launch 5", "wait 4", "wait 5"),
    ]


def test_while_the_rows_stay_the_same_nothing_is_copied_to_the_device(monkeypatch):
    engine, device = make_graph_engine(block_size=16)
    for name in "ab":
        engine.add(request(PROMPT, id=name, max_tokens=7))
    engine.step()
    uploads, upload = [], device.upload

    def watched(values):
        uploads.append(values)
        return upload(values)

    monkeypatch.setattr(device, "upload", watched)
    for _ in range(5):
        engine.step()
    assert len(uploads) == 1  # which rows decode


def test_a_cancel_takes_effect_at_once_although_a_step_is_in_flight():
    model = HashModel()
    engine, device = make_graph_engine()
    for name in "ab":
        engine.add(request([*PROMPT, ord(name) % VOCAB_SIZE], id=name, max_tokens=20))
    outputs: dict[str, list[SequenceOutput]] = {}
    for _ in range(5):
        for output in engine.step():
            outputs.setdefault(output.id, []).append(output)
    assert device.log[-2:] == ["launch 5", "wait 4"]
    engine.cancel("a")
    assert (engine.stats().running, engine.has_work()) == (1, True)
    later = drain(engine)
    assert later.keys() == {"b"}
    expected = model.continue_greedily([*PROMPT, ord("b") % VOCAB_SIZE], 20)
    assert ids_of(outputs["b"] + later["b"]) == expected


def test_an_engine_without_sequences_has_no_work_although_a_step_is_in_flight():
    model = HashModel()
    engine, _ = make_graph_engine()
    engine.add(request(PROMPT, max_tokens=20))
    for _ in range(4):
        engine.step()
    engine.cancel("a")
    assert not engine.has_work()
    assert engine.stats().kv_blocks_used == 0
    engine.add(request(PROMPT[:5], max_tokens=8))  # under the same name
    assert ids_of(drain(engine)["a"]) == model.continue_greedily(PROMPT[:5], 8)


def test_one_that_may_be_admitted_is_not_kept_waiting():
    engine, device = make_graph_engine()
    engine.add(request(PROMPT, max_tokens=20))
    for _ in range(4):
        engine.step()
    engine.add(request(PROMPT[:4], id="b"))
    engine.step()  # what was in flight, and nothing behind it
    assert device.log[-1].startswith("wait")
    assert {output.id for output in engine.step()} == {"a", "b"}


@pytest.mark.parametrize("num_steps", range(2, 9))
def test_other_weights_take_over_behind_the_last_token_that_was_told(num_steps):
    old, models = HashModel(), list[GraphHashModel]()

    def reload(isq):
        other = GraphHashModel()
        other.table = other.table.flip(0)
        models.append(other)
        return other

    engine, device = make_graph_engine(reload=reload)
    texts = {"a": PROMPT, "b": PROMPT[::-1]}
    for name, text in texts.items():
        engine.add(request(text, id=name, max_tokens=15))
    tokens: dict[str, list[int]] = {"a": [], "b": []}

    def step():
        for output in engine.step():
            tokens[output.id] += output.token_ids

    for _ in range(num_steps):
        step()
    num_captures = device.num_captures
    engine.requantize("Q8_0")
    while (error := engine.take_weights()) is None:
        pass
    assert error == ""
    assert device.num_captures == num_captures + 3  # of 1, 2 and 4 sequences
    before = {name: list(ids) for name, ids in tokens.items()}
    while engine.has_work():
        step()
    for name, text in texts.items():
        made = before[name]
        assert made == old.continue_greedily(text, len(made))
        assert tokens[name] == made + models[0].continue_greedily(text + made, 15 - len(made))


def test_new_weights_whose_graphs_do_not_fit_are_nobodys_crash():
    engine, device = make_graph_engine(reload=lambda isq: GraphHashModel())
    engine.add(request(PROMPT, max_tokens=15))
    for _ in range(3):
        engine.step()

    def fail(_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    device.capture = fail  # type: ignore[method-assign]
    engine.requantize("Q8_0")
    assert engine._change is not None
    engine._change._thread.join()
    with pytest.raises(OutOfMemory, match="choose a smaller type"):
        engine.take_weights()
    assert engine.has_work()
