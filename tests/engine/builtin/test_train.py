"""The training script: its batches, its loss, and that it does train."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.builtin.network import Llama, Shape
from engine.builtin.train import Example, Recipe, batch_loss, batches, prepare, save, train

SMALL = Shape(
    vocab_size=400, hidden_size=32, intermediate_size=32, num_layers=1, num_heads=2, head_dim=16
)


def example(*token_ids: int) -> Example:
    return Example(list(token_ids), [False] + [True] * (len(token_ids) - 1))


def test_batches_hold_every_example_once_within_the_token_limit():
    examples = [example(*range(n % 17 + 2)) for n in range(200)]
    groups = batches(examples, Recipe(batch_tokens=64))
    assert sorted(id(e) for group in groups for e in group) == sorted(map(id, examples))
    assert max(len(g) * max(len(e.token_ids) for e in g) for g in groups) <= 64


def test_padding_does_not_change_the_loss():
    model = Llama(SMALL)
    short, long = example(1, 2, 3), example(4, 5, 6, 7, 8, 9)
    alone = [batch_loss(model, [e]).item() * (len(e.token_ids) - 1) for e in (short, long)]
    assert batch_loss(model, [short, long]).item() == pytest.approx(sum(alone) / 7, rel=1e-5)


def test_a_short_training_lowers_the_loss_and_saves_a_loadable_model(tmp_path: Path):
    torch.manual_seed(0)
    recipe = Recipe(num_documents=60, batch_tokens=1024, warmup_steps=2)
    tokenizer, examples = prepare(recipe, SMALL)
    model = Llama(SMALL)
    losses = [loss for _, loss in train(model, examples, recipe)]
    assert losses[-1] < losses[0] - 0.1
    save(model, tokenizer, SMALL, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    token_ids = torch.arange(5, 60)[None]
    with torch.inference_mode():
        ours = model(token_ids, torch.ones_like(token_ids, dtype=torch.bool))
        assert (ours - loaded(token_ids).logits[0]).abs().max() < 2e-2  # weights are float16


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_the_first_minute_of_training_brings_the_loss_down_as_it_should(tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "engine.builtin.train",
        "--out",
        str(tmp_path),
        "--documents",
        "3000",
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    losses = [float(line.split()[3]) for line in output.splitlines() if line.startswith("step ")]
    assert losses[0] > 4.0
    assert losses[-1] < 2.5
