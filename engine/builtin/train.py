"""Trains the built-in model: `python -m engine.builtin.train --out DIR`. Knows no engine.

The whole recipe is here: text from `corpus`, a tokenizer made from it, one pass of AdamW with
warm-up and cosine decay, loss on the assistant's words only, weights rounded to float16.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from engine.builtin.corpus.documents import Document, documents
from engine.builtin.network import Llama, Shape
from engine.builtin.tokens import (
    BOS,
    END,
    encode_document,
    save_tokenizer,
    token_id,
    train_tokenizer,
)


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to learn."""

    num_documents: int = 38_000
    batch_tokens: int = 1024
    learning_rate: float = 1.2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    seed: int = 2026


@dataclass(frozen=True)
class Example:
    """One document as token ids, and which of them are learned."""

    token_ids: list[int]
    is_target: list[bool]


def batches(examples: Sequence[Example], recipe: Recipe) -> list[list[Example]]:
    """Groups of like length, at most `batch_tokens` with padding, in a random but fixed order."""
    rng = random.Random(recipe.seed)
    ordered = sorted(examples, key=lambda example: (len(example.token_ids), rng.random()))
    groups: list[list[Example]] = [[]]
    for example in ordered:
        if (len(groups[-1]) + 1) * len(example.token_ids) > recipe.batch_tokens and groups[-1]:
            groups.append([])
        groups[-1].append(example)
    rng.shuffle(groups)
    return groups


def tensors(batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Token ids and targets [B, T]; causal attention never looks at the padding on the right."""
    length = max(len(example.token_ids) for example in batch)
    token_ids = torch.zeros(len(batch), length, dtype=torch.long)
    is_target = torch.zeros(len(batch), length, dtype=torch.bool)
    for row, example in enumerate(batch):
        token_ids[row, : len(example.token_ids)] = torch.tensor(example.token_ids)
        is_target[row, : len(example.is_target)] = torch.tensor(example.is_target)
    return token_ids, is_target


def batch_loss(model: Llama, batch: Sequence[Example]) -> Tensor:
    """Mean cross-entropy, in nats, of the learned tokens."""
    token_ids, is_target = tensors(batch)
    logits = model(token_ids[:, :-1], is_target[:, 1:])
    return F.cross_entropy(logits, token_ids[:, 1:][is_target[:, 1:]])


def learning_rate_factor(step: int, progress: float, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to 2 % at progress 1."""
    warmup = min(1.0, (step + 1) / recipe.warmup_steps)
    return warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def make_optimizer(model: Llama, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; norms and embeddings do not decay."""
    matrices = [p for name, p in model.named_parameters() if "_proj" in name]
    others = [p for name, p in model.named_parameters() if "_proj" not in name]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)


def train(model: Llama, examples: Sequence[Example], recipe: Recipe) -> Iterator[tuple[int, float]]:
    """One pass over the examples; yields (step, loss) after each batch."""
    optimizer = make_optimizer(model, recipe)
    groups = batches(examples, recipe)
    for step, batch in enumerate(groups):
        progress = step / len(groups)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * learning_rate_factor(step, progress, recipe)
        loss = batch_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield step, loss.item()


def save(model: Llama, tokenizer: Tokenizer, shape: Shape, out: Path) -> None:
    """Write the five files that make a model directory in the layout of Hugging Face."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    bos_id, end_id = token_id(tokenizer, BOS), token_id(tokenizer, END)
    config = shape.hugging_face_config(bos_id, end_id)
    generation = {
        "bos_token_id": bos_id,
        "eos_token_id": [end_id],
        "do_sample": True,
        "temperature": 0.3,
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    save_tokenizer(tokenizer, out, shape.context_length)


def prepare(recipe: Recipe, shape: Shape) -> tuple[Tokenizer, list[Example]]:
    """Write the corpus and cut it into tokens."""
    corpus = list(documents(recipe.num_documents, recipe.seed))
    tokenizer = train_tokenizer(map(plain_text, corpus), shape.vocab_size)
    examples = [Example(*encode_document(tokenizer, document)) for document in corpus]
    return tokenizer, [e for e in examples if len(e.token_ids) <= shape.context_length]


def plain_text(document: Document) -> str:
    """All words of a document, for the tokenizer to learn from."""
    if isinstance(document, str):
        return document
    return "\n".join(message.content for message in document)


def main() -> None:
    """Train and save, printing the loss on the way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the directory to write")
    parser.add_argument("--documents", type=int, default=Recipe.num_documents)
    arguments = parser.parse_args()
    recipe, shape = Recipe(num_documents=arguments.documents), Shape()
    torch.manual_seed(recipe.seed)
    tokenizer, examples = prepare(recipe, shape)
    model = Llama(shape)
    print_sizes(model, examples)
    losses = []
    for step, loss in train(model, examples, recipe):
        losses.append(loss)
        if step % 100 == 99:
            print(progress_line(step, losses[-100:]), flush=True)
    save(model, tokenizer, shape, arguments.out)
    print(progress_line(step, losses[-100:]))


def print_sizes(model: Llama, examples: Sequence[Example]) -> None:
    """Say what is about to be trained, and on how much."""
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    num_tokens = sum(len(example.token_ids) for example in examples)
    print(
        f"{num_parameters} parameters, {len(examples)} documents, {num_tokens} tokens", flush=True
    )


def progress_line(step: int, losses: Sequence[float]) -> str:
    """Steps so far, the mean of their last losses, and the processor time of this process."""
    minutes = time.process_time() / 60
    return f"step {step + 1}  loss {sum(losses) / len(losses):.4f}  {minutes:.2f} CPU minutes"


if __name__ == "__main__":
    main()
