"""Trains a Llama of eleven million parameters on docstrings, for tests/bench/perplexity.py.

    python tests/bench/perplexity_model.py --out DIR

All rows are multiples of 256, so that every format fits. The seed is fixed, and so is the number
of tokens: seven minutes of one core that multiplies bfloat16. The recipe is the built-in model's.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from engine.builtin.network import Llama, Shape  # noqa: E402
from engine.builtin.tokens import BOS, token_id, train_tokenizer  # noqa: E402
from engine.builtin.train import Example, Recipe, progress_line, save, train  # noqa: E402
from tests.bench.perplexity_text import library_texts  # noqa: E402

SHAPE = Shape(
    vocab_size=4096,
    hidden_size=512,
    intermediate_size=1024,
    num_layers=4,
    num_heads=8,
    num_kv_heads=4,
    head_dim=64,
    context_length=1024,
)
RECIPE = Recipe(batch_tokens=1024, learning_rate=1e-3, warmup_steps=50)
NUM_PASSES = 3
WINDOW = 256


def windows(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """Texts as token ids, cut to at most 256, each piece behind the token that begins a text."""
    bos = token_id(tokenizer, BOS)
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        for start in range(0, len(ids), WINDOW - 1):
            yield [bos, *ids[start : start + WINDOW - 1]]


def make(out: Path) -> None:
    """Train, and write the model in the layout of Hugging Face."""
    torch.manual_seed(RECIPE.seed)
    learned, _ = library_texts()
    tokenizer = train_tokenizer(learned, SHAPE.vocab_size)
    pieces = list(windows(tokenizer, learned)) * NUM_PASSES
    examples = [Example(ids, [False] + [True] * (len(ids) - 1)) for ids in pieces if len(ids) > 1]
    model = Llama(SHAPE)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{num_parameters} parameters, {sum(map(len, pieces))} tokens", flush=True)
    losses = []
    # Without its cache, which would hold the weights as they were at the first step.
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        for step, loss in train(model, examples, RECIPE):
            losses.append(loss)
            if step % 100 == 99:
                print(progress_line(step, losses[-100:]), flush=True)
    save(model, tokenizer, SHAPE, out)


def main() -> None:
    """Train and save, printing the loss on the way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the directory to write")
    make(parser.parse_args().out)


if __name__ == "__main__":
    main()
