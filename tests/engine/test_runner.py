"""One step through the model and the sampler."""

import torch

from engine.block_manager import BlockManager
from engine.capacity import Capacity
from engine.kv_cache import allocate
from engine.runner import Runner
from engine.scheduler import Scheduler
from engine.sequence import Sequence
from tests.engine.hash_model import CONTEXT_LENGTH, VOCAB_SIZE, HashModel, model_config, request

CPU = torch.device("cpu")


class Watched(HashModel):
    """Remembers how many rows of logits were asked for, and that no gradient was kept."""

    def __init__(self):
        super().__init__()
        self.rows: list[int] = []

    def logits(self, hidden):
        assert torch.is_inference_mode_enabled()
        self.rows.append(len(hidden))
        return super().logits(hidden)


def make(budget):
    cache = allocate(model_config(), 40, 4, torch.float32, CPU)
    model = Watched()
    runner = Runner(model, cache, Capacity(40, 4, CONTEXT_LENGTH), 4, VOCAB_SIZE, CPU)
    return model, runner, Scheduler(BlockManager(40, 4), 4, budget)


def test_a_step_gives_one_token_for_each_sampled_sequence():
    model, runner, scheduler = make(budget=64)
    for id, text in [("a", [1, 2, 3]), ("b", [4] * 9)]:
        scheduler.add(Sequence(request(text, id=id), (), CONTEXT_LENGTH))
    expected = [model.continue_greedily([1, 2, 3], 2), model.continue_greedily([4] * 9, 2)]
    for i in range(2):
        step = scheduler.schedule()
        token_ids = runner.run(step).token_ids
        assert token_ids == [tokens[i] for tokens in expected]
        scheduler.commit(step, token_ids)
    assert model.rows == [2, 2]


def test_a_chunk_that_is_not_the_last_asks_for_no_logits():
    model, runner, scheduler = make(budget=4)
    scheduler.add(Sequence(request([1, 2, 3, 4, 5]), (), CONTEXT_LENGTH))
    step = scheduler.schedule()
    assert runner.run(step).token_ids == []
    scheduler.commit(step, [])
    assert model.rows == []
    made = runner.run(scheduler.schedule())
    assert made.token_ids == model.continue_greedily([1, 2, 3, 4, 5], 1)
