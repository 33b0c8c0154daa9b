"""The largest step, as far as it can be seen without an accelerator."""

from itertools import pairwise

import pytest
import torch

from engine.config import EngineConfig
from engine.memory import peak_bytes
from engine.profile import largest_batch, run_largest
from tests.engine.hash_model import HashModel, model_config

CPU = torch.device("cpu")


@pytest.mark.parametrize(("num_tokens", "num_seqs"), [(20, 3), (8, 8), (5, 1)])
def test_the_largest_batch_is_well_formed(num_tokens, num_seqs):
    batch = largest_batch(num_tokens, num_seqs, 4, CPU)
    lengths = batch.context_lengths.tolist()
    assert sum(lengths) == len(batch.token_ids) == len(batch.positions) == num_tokens
    assert min(lengths) >= 1
    starts = batch.query_starts.tolist()
    assert (starts[0], starts[-1]) == (0, num_tokens)
    assert [b - a for a, b in pairwise(starts)] == lengths
    assert batch.positions.tolist() == [p for length in lengths for p in range(length)]
    assert batch.logits_indices.tolist() == [start - 1 for start in starts[1:]]
    assert batch.slots.eq(-1).all()
    assert batch.block_tables.shape == (num_seqs, -(-max(lengths) // 4))


class Wide:
    """A vocabulary so large that sampling is what takes memory."""

    vocab_size = 400_000

    def forward(self, batch, kv_cache):
        return torch.zeros(len(batch.token_ids), 1)

    def logits(self, hidden):
        return torch.zeros(len(hidden), self.vocab_size)


def test_the_profile_samples_with_all_that_takes_memory():
    """Logits, their softmax, the penalties' results and tables: 4, 4, 4 and 5 bytes a token."""
    config = EngineConfig(max_seqs=16, max_num_batched_tokens=32)
    shape = model_config(vocab_size=Wide.vocab_size)
    peak = peak_bytes(CPU, lambda: run_largest(Wide(), config, shape, 96, 4, torch.float32, CPU))
    assert peak > 16 * Wide.vocab_size * (4 + 4 + 4 + 5)


@pytest.mark.parametrize(("budget", "expected"), [(64, 64), (10_000, 4 * 96)])
def test_the_profile_runs_the_model_once_at_its_largest(budget, expected):
    model = HashModel()
    config = EngineConfig(max_seqs=4, max_num_batched_tokens=budget)
    run_largest(model, config, model_config(), 96, 4, torch.float32, CPU)
    assert (model.num_forwards, model.num_tokens) == (1, expected)
