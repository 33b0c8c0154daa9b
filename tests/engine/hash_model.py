"""A tiny model for engine tests: its logits depend on every token it can see, through the cache."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.batch import Batch
from engine.config import EngineConfig, ModelConfig, SamplingParams
from engine.engine import Engine
from engine.graph_device import GraphDevice
from engine.messages import SequenceOutput, SequenceRequest

VOCAB_SIZE = 50
CONTEXT_LENGTH = 96
_NUM_TABLE_ROWS = 4096


def hash_tokens(token_ids: Sequence[int]) -> int:
    """What the fake model computes of a prefix, in plain Python."""
    total = sum((token + 1) * (7919 * position + 13) for position, token in enumerate(token_ids))
    return total % _NUM_TABLE_ROWS


class HashModel:
    """The logits of a token are a random row, chosen by a hash of all tokens up to it.

    Keys hold the token, values its position; what attention can see is read back from the cache, so
    a wrong slot, block table or stale block gives other logits.
    """

    def __init__(self, vocab_size: int = VOCAB_SIZE) -> None:
        generator = torch.Generator().manual_seed(7)
        self.table = torch.randn(_NUM_TABLE_ROWS, vocab_size, generator=generator) * 2
        self.num_forwards = 0
        self.num_tokens = 0
        self.largest_batch = 0

    def forward(self, batch: Batch, kv_cache: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        self.num_forwards += 1
        self.num_tokens += len(batch.token_ids)
        self.largest_batch = max(self.largest_batch, len(batch.token_ids))
        keys, values = (cache.flatten(2) for cache in kv_cache[0])
        kept = batch.slots >= 0
        keys.flatten(0, 1)[batch.slots[kept]] = batch.token_ids[kept, None].float() + 1
        values.flatten(0, 1)[batch.slots[kept]] = batch.positions[kept, None].float()
        hidden = torch.empty(len(batch.token_ids), 1)
        for s in range(len(batch.context_lengths)):
            start, end = batch.query_starts[s : s + 2].tolist()
            length = int(batch.context_lengths[s])
            blocks = batch.block_tables[s].long()
            seen = keys[blocks].flatten()[:length].long()
            at = values[blocks].flatten()[:length].long()
            hashes = (seen * (7919 * at + 13)).cumsum(0) % _NUM_TABLE_ROWS
            hidden[start:end, 0] = hashes[length - (end - start) :].float()
            assert batch.positions[start:end].tolist() == list(range(length - end + start, length))
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        return self.table[hidden[:, 0].long()]

    def continue_greedily(self, token_ids: Sequence[int], num_tokens: int) -> list[int]:
        """The reference: no cache, no batch."""
        tokens = list(token_ids)
        for _ in range(num_tokens):
            tokens.append(int(self.table[hash_tokens(tokens)].argmax()))
        return tokens[len(token_ids) :]


def model_config(**changes: object) -> ModelConfig:
    """A shape of one layer and one head of one element, which is what HashModel needs."""
    values: dict[str, object] = {
        "architecture": "HashModel",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 1,
        "intermediate_size": 1,
        "num_layers": 1,
        "num_heads": 1,
        "num_kv_heads": 1,
        "head_dim": 1,
        "context_length": CONTEXT_LENGTH,
        **changes,
    }
    return ModelConfig(**values)  # type: ignore[arg-type]


def make_engine(
    model: HashModel | None = None,
    num_blocks: int = 0,
    eos: tuple[int, ...] = (),
    reload: Callable[[str], HashModel] | None = None,
    graph_device: GraphDevice | None = None,
    **changes: object,
) -> Engine:
    """An engine over a HashModel: `num_blocks` of KV (0: plenty), the rest as in EngineConfig."""
    values = {"max_seqs": 4, "max_num_batched_tokens": 64, "block_size": 4, **changes}
    block_bytes = 2 * int(str(values["block_size"])) * 4
    config = EngineConfig(kv_cache_bytes=num_blocks * block_bytes, **values)  # type: ignore[arg-type]
    return Engine(
        model or HashModel(),
        model_config(eos_token_ids=eos),
        config,
        device=torch.device("cpu"),
        dtype=torch.float32,
        reload=reload,
        graph_device=graph_device,
    )


def request(
    prompt_ids: Sequence[int],
    id: str = "a",
    output_ids: Sequence[int] = (),
    salt: str = "",
    **params: object,
) -> SequenceRequest:
    """A greedy request for four tokens, unless `params` say otherwise."""
    sampling = SamplingParams(**{"max_tokens": 4, "temperature": 0.0, **params})  # type: ignore[arg-type]
    return SequenceRequest(
        id=id, prompt_ids=list(prompt_ids), output_ids=list(output_ids), salt=salt, params=sampling
    )


def drain(engine: Engine, max_steps: int = 2000) -> dict[str, list[SequenceOutput]]:
    """Step until nothing is left. The outputs of each sequence."""
    outputs: dict[str, list[SequenceOutput]] = {}
    for _ in range(max_steps):
        if not engine.has_work():
            return outputs
        for output in engine.step():
            outputs.setdefault(output.id, []).append(output)
    raise AssertionError("the engine did not come to an end")


def ids_of(outputs: Sequence[SequenceOutput]) -> list[int]:
    """The tokens of one sequence's outputs."""
    return [token_id for output in outputs for token_id in output.token_ids]
