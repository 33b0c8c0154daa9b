"""A decoder as the source of a text's states: the layers that generate, without a cache.

A layer writes a step's keys and values where it reads them, so one layer's worth of memory, for
the tokens of one step, does for all.
"""

from itertools import accumulate

import torch
from torch import Tensor, nn

from engine.batch import Batch
from engine.config import ModelConfig
from engine.encoders.batch import Packed
from engine.layers.decoder import Decoder

_BLOCK_SIZE = 16


class DecoderStates(nn.Module):
    """The final states of a decoder's tokens."""

    def __init__(self, decoder: Decoder, rope_switch: int) -> None:
        """`rope_switch` is the longest text of the first set of rotary frequencies, 0: the only."""
        super().__init__()
        self.decoder = decoder
        self._rope_switch = rope_switch

    def forward(self, packed: Packed) -> Tensor:
        """The last state of each token [T, hidden]."""
        counts = [-(-length // _BLOCK_SIZE) for length in packed.lengths]
        config, device = self.decoder.config, packed.token_ids.device
        dtype = self.decoder.embedding.weight.dtype
        # looking both ways takes none
        num_blocks = sum(counts) if config.is_causal else 0
        cache = _scratch(config, num_blocks, dtype, device)
        batch = self._batch(packed, counts)
        states: Tensor = self.decoder(batch, [cache] * config.num_layers)
        return states

    def _batch(self, packed: Packed, counts: list[int]) -> Batch:
        device = packed.token_ids.device
        firsts = [0, *accumulate(counts)][:-1]
        lengths = torch.tensor(packed.lengths)
        begins = torch.tensor(firsts)
        slots = torch.repeat_interleave(begins * _BLOCK_SIZE, lengths).to(device, non_blocking=True)
        tables = begins[:, None] + torch.arange(max(counts))
        return Batch(
            token_ids=packed.token_ids,
            positions=packed.positions,
            slots=slots + packed.positions,
            # past a text's last block the numbers are others', and never read
            block_tables=tables.to(device, torch.int32, non_blocking=True),
            query_starts=packed.starts,
            context_lengths=lengths.to(device, torch.int32, non_blocking=True),
            logits_indices=packed.starts[1:].long() - 1,
            rope_sets=self._rope_sets(lengths, device),
        )

    def _rope_sets(self, lengths: Tensor, device: torch.device) -> Tensor | None:
        if not self._rope_switch:
            return None
        return torch.repeat_interleave((lengths > self._rope_switch).long(), lengths).to(
            device, non_blocking=True
        )


def _scratch(
    config: ModelConfig, num_blocks: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    shape = (num_blocks, _BLOCK_SIZE, config.num_kv_heads, config.head_dim)
    return torch.empty(shape, dtype=dtype, device=device), torch.empty(
        shape, dtype=dtype, device=device
    )
