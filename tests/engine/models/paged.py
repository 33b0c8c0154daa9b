"""Drives a model of ours by hand: batches over a paged cache, without scheduler and blocks."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.batch import Batch
from engine.layers.decoder import Decoder
from engine.weights.rope_scaling import rope_switch

BLOCK_SIZE = 4
NUM_BLOCKS = 96


class PagedModel:
    """A model with a cache full of garbage, whose free blocks are handed out in random order."""

    def __init__(self, model: Decoder) -> None:
        self.model = model
        config = model.config
        self.rope_switch = rope_switch(config, config.context_length)
        dtype = model.embedding.weight.dtype
        shape = (NUM_BLOCKS, BLOCK_SIZE, config.num_kv_heads, config.head_dim)
        self.kv_cache = [
            (torch.full(shape, 77.0, dtype=dtype), torch.full(shape, -55.0, dtype=dtype))
            for _ in range(config.num_layers)
        ]
        self.free = list(range(NUM_BLOCKS))
        random.Random(3).shuffle(self.free)

    def blocks_for(self, num_tokens: int) -> list[int]:
        return [self.free.pop() for _ in range(-(-num_tokens // BLOCK_SIZE))]

    def prefill(self, token_ids: Sequence[int], chunk: int) -> Tensor:
        """Logits of all positions of one sequence, `chunk` tokens a step."""
        blocks = self.blocks_for(len(token_ids))
        rows = [
            self.step([(list(token_ids[start : start + chunk]), start, blocks)])
            for start in range(0, len(token_ids), chunk)
        ]
        return torch.cat(rows)

    @torch.no_grad()
    def step(self, parts: Sequence[tuple[list[int], int, list[int]]]) -> Tensor:
        """Logits of all tokens of one step. A part is (new tokens, tokens before them, blocks)."""
        batch = make_batch(parts)
        if self.rope_switch:
            batch = batch._replace(rope_sets=self._rope_sets(parts))
        hidden = self.model(batch, self.kv_cache)
        return self.model.logits(hidden)

    def _rope_sets(self, parts: Sequence[tuple[list[int], int, list[int]]]) -> Tensor:
        """A sequence has the blocks of its whole length from the first, so they say if it is long.

        The switch lies between two blocks.
        """
        assert self.rope_switch % BLOCK_SIZE == 0
        is_long = [len(blocks) * BLOCK_SIZE > self.rope_switch for _, _, blocks in parts]
        return (
            torch.tensor(is_long)
            .long()
            .repeat_interleave(torch.tensor([len(tokens) for tokens, _, _ in parts]))
        )


def make_batch(parts: Sequence[tuple[list[int], int, list[int]]]) -> Batch:
    positions = [list(range(start, start + len(tokens))) for tokens, start, _ in parts]
    slots = [
        blocks[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
        for (_, _, blocks), places in zip(parts, positions, strict=True)
        for position in places
    ]
    starts = [0]
    for tokens, _, _ in parts:
        starts.append(starts[-1] + len(tokens))
    width = max(len(blocks) for _, _, blocks in parts)
    return Batch(
        token_ids=torch.tensor([token for tokens, _, _ in parts for token in tokens]),
        positions=torch.tensor([position for places in positions for position in places]),
        slots=torch.tensor(slots),
        block_tables=torch.tensor(
            [blocks + [0] * (width - len(blocks)) for _, _, blocks in parts], dtype=torch.int32
        ),
        query_starts=torch.tensor(starts, dtype=torch.int32),
        context_lengths=torch.tensor(
            [start + len(tokens) for tokens, start, _ in parts], dtype=torch.int32
        ),
        logits_indices=torch.arange(starts[-1]),
    )
