"""Which rows get which treatment, and in which order."""

import math

import numpy as np
import pytest
import torch

from engine import gumbel, sampling
from engine.batch import SampledRows
from engine.sampler import Sampler
from engine.sequence import Sequence
from tests.engine.hash_model import request

VOCAB_SIZE = 40
CPU = torch.device("cpu")


def make_logits(num_rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, VOCAB_SIZE, generator=generator) * 2


def make_sequence(row, prompt=(1, 2, 3), output=(), **params):
    values = {"temperature": 0.0, "max_tokens": 50, **params}
    sequence = Sequence(request(prompt, output_ids=output, **values), (9,), 1000)
    sequence.row = row
    return sequence


def sampler_of(*sequences, max_seqs=8):
    sampler = Sampler(max_seqs, VOCAB_SIZE, CPU)
    for sequence in sequences:
        sampler.set(sequence)
    return sampler


def sample(sampler, logits, *sequences):
    rows = np.array([sequence.row for sequence in sequences])
    positions = np.array([len(sequence) for sequence in sequences])
    return sampler.sample(logits.clone(), SampledRows(rows, positions)).tolist()


def test_temperature_zero_takes_the_largest_logit_whatever_the_filters_say():
    sequences = [make_sequence(0), make_sequence(1, temperature=9e-8, top_k=3, top_p=0.1, seed=4)]
    logits = make_logits(2)
    assert sample(sampler_of(*sequences), logits, *sequences) == logits.argmax(-1).tolist()


def test_greedy_rows_beside_drawn_ones_stay_greedy():
    sequences = [make_sequence(i, temperature=1.5 * (i % 2), seed=i) for i in range(6)]
    logits = make_logits(6)
    got = sample(sampler_of(*sequences), logits, *sequences)
    assert got[::2] == logits.argmax(-1).tolist()[::2]
    assert got[1::2] != logits.argmax(-1).tolist()[1::2]


PARAMS: list[dict[str, object]] = [
    {"temperature": 0.7, "seed": 1},
    {"temperature": 1.3, "seed": 2, "top_k": 5},
    {"temperature": 1.0, "seed": 3, "top_p": 0.6, "choice": 2},
    {"temperature": 0.9, "seed": 4, "min_p": 0.1, "top_k": 1000},
    {"temperature": 2.0, "seed": -5, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
    {"temperature": 1.0, "seed": 2**64 - 1, "frequency_penalty": 0.5, "presence_penalty": 0.2},
    {"temperature": 0.0, "repetition_penalty": 1.5, "logit_bias": {3: 4.0, 5: -100.0}},
    {"temperature": 0.8, "seed": 8, "min_tokens": 10, "stop_token_ids": (4, 6)},
]


def plainly(row, sequence):
    """The documented order for one row, with the tested formulas and nothing skipped or batched."""
    params = sequence.params
    output = list(sequence.output_ids)
    counts = torch.tensor([[output.count(i) for i in range(VOCAB_SIZE)]])
    seen = torch.tensor([[i in sequence.token_ids for i in range(VOCAB_SIZE)]])
    factors = (params.frequency_penalty, params.presence_penalty, params.repetition_penalty)
    x = sampling.penalize(row[None], counts, seen, *(torch.tensor([f]) for f in factors))
    for token_id, value in params.logit_bias.items():
        x[0, token_id] += value
    if len(output) < params.min_tokens:
        for token_id in (*params.stop_token_ids, 9):
            x[0, token_id] = -math.inf
    if params.temperature == 0:
        return int(x.argmax())
    x = x / params.temperature
    if params.top_k:
        x = sampling.keep_top_k(x, torch.tensor([min(params.top_k, VOCAB_SIZE)]))
    x = sampling.keep_top_p(x, torch.tensor([params.top_p]))
    x = sampling.keep_min_p(x, torch.tensor([params.min_p]))
    seed = (params.seed + 2**63) % 2**64 - 2**63
    keys = (torch.tensor([key]) for key in (seed, params.choice, len(sequence)))
    return int(gumbel.draw(x, *keys))


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_batch_samples_as_each_row_alone_in_the_documented_order(size):
    for start in range(len(PARAMS)):
        chosen = [PARAMS[(start + i) % len(PARAMS)] for i in range(size)]
        sequences = [
            make_sequence(7 - i, prompt=[i, 2, 3], output=[5, 5, i], **params)
            for i, params in enumerate(chosen)
        ]
        sampler = sampler_of(*sequences)
        for now in range(6):
            logits = make_logits(size, seed=100 * start + now)
            got = sample(sampler, logits, *sequences)
            expected = [plainly(row, s) for row, s in zip(logits, sequences, strict=True)]
            assert got == expected
            for sequence, token_id in zip(sequences, got, strict=True):
                sequence.token_ids.append(token_id)


def test_ids_that_would_end_a_sequence_are_masked_until_min_tokens():
    sequence = make_sequence(0, min_tokens=2, stop_token_ids=(4,))
    ignoring = make_sequence(1, min_tokens=2, ignore_eos=True)
    sampler = sampler_of(sequence, ignoring)
    logits = torch.zeros(2, VOCAB_SIZE)
    logits[:, 9], logits[:, 4], logits[:, 7] = 3.0, 2.0, 1.0
    for expected in ([7, 9], [7, 9], [9, 9]):
        assert sample(sampler, logits, sequence, ignoring) == expected
        sequence.token_ids.append(7)
        ignoring.token_ids.append(7)


def test_min_tokens_without_any_stop_id_masks_nothing():
    sequence = make_sequence(0, min_tokens=2, ignore_eos=True)
    logits = make_logits(1)
    assert sample(sampler_of(sequence), logits, sequence) == logits.argmax(-1).tolist()


def test_a_row_forgets_its_last_sequence():
    strange = make_sequence(0, temperature=5.0, logit_bias={1: 90.0}, presence_penalty=2.0)
    sampler = sampler_of(strange)
    logits = make_logits(1)
    assert sample(sampler, logits, strange) == [1]
    plain = make_sequence(0)
    sampler.set(plain)
    assert sample(sampler, logits, plain) == logits.argmax(-1).tolist()


def test_a_bias_can_forbid_and_force_a_token():
    logits = make_logits(2)
    best = logits.argmax(-1).tolist()
    sequences = [
        make_sequence(0, logit_bias={best[0]: -100.0}),
        make_sequence(1, logit_bias={8: 100.0}),
    ]
    got = sample(sampler_of(*sequences), logits, *sequences)
    assert got == [logits[0].topk(2).indices.tolist()[1], 8]
