"""Which part of a model each process of a tensor-parallel group has. Knows shapes and names.

Heads and the inner dimension of each feed-forward block are divided: what widens is cut by rows,
what narrows again by columns, so that the sum over the processes is the whole (arXiv 1909.08053).
"""

from typing import NamedTuple

import msgspec

from engine.config import ModelConfig
from engine.errors import LoadError

_BY_ROWS = frozenset(
    {"q_proj", "k_proj", "v_proj", "qkv_proj"}
    | {"gate_proj", "up_proj", "gate_up_proj", "w1", "w3", "fc1", "c_fc"}
)
_BY_COLUMNS = frozenset({"o_proj", "dense", "down_proj", "w2", "fc2", "c_proj"})


class Shard(NamedTuple):
    """The place of a process in a group of `size`."""

    rank: int
    size: int

    def part(self, start: int, length: int) -> range:
        """Its part of the `length` rows or columns from `start`; they divide by the size."""
        each = length // self.size
        return range(start + self.rank * each, start + (self.rank + 1) * each)

    def config(self, whole: ModelConfig) -> ModelConfig:
        """The shape of its part. Raises LoadError for a model that cannot be divided so."""
        for name in ("num_heads", "num_kv_heads", "intermediate_size", "expert_intermediate_size"):
            if (number := getattr(whole, name)) % self.size:
                raise LoadError(
                    f"The model's {name} is {number}, which {self.size} processes cannot share "
                    f"evenly; choose another --tensor-parallel."
                )
        if whole.qk_norm == "row":
            raise LoadError(
                f"{whole.architecture} normalises over all heads of a token at once, which no "
                "process has with --tensor-parallel; leave it out."
            )
        return msgspec.structs.replace(
            whole,
            num_heads=whole.num_heads // self.size,
            num_kv_heads=whole.num_kv_heads // self.size,
            head_dim=whole.head_dim,
            intermediate_size=whole.intermediate_size // self.size,
            expert_intermediate_size=whole.expert_intermediate_size // self.size,
        )


class Cut(NamedTuple):
    """What a process takes of a tensor: these parts of one dimension, counted from the last one.

    A bias that is added after the sum over the processes `belongs_to_first`: others have zeros.
    """

    dim: int
    parts: tuple[range, ...]
    belongs_to_first: bool = False


WHOLE = Cut(-1, ())


def cut_of(name: str, shape: tuple[int, ...], whole: ModelConfig, shard: Shard) -> Cut:
    """How the tensor `name` is cut; `WHOLE` where every process has all of it."""
    is_bias = name.endswith(".bias")
    module = name.removesuffix(".weight").removesuffix(".bias").rsplit(".", 1)[-1]
    if module in _BY_COLUMNS:
        return Cut(-1, (), True) if is_bias else Cut(-1, (shard.part(0, shape[-1]),))
    if module not in _BY_ROWS:
        return WHOLE
    dim = -1 if is_bias else -2
    return Cut(dim, _parts(_sections(module, shape[dim], whole), shard))


def _sections(module: str, num_rows: int, whole: ModelConfig) -> tuple[int, ...]:
    """The rows of the projections that are stacked in one tensor."""
    if module == "qkv_proj":
        heads = (whole.num_heads, whole.num_kv_heads, whole.num_kv_heads)
        return tuple(number * whole.head_dim for number in heads)
    return (num_rows // 2,) * 2 if module == "gate_up_proj" else (num_rows,)


def _parts(sections: tuple[int, ...], shard: Shard) -> tuple[range, ...]:
    starts = [sum(sections[:index]) for index in range(len(sections))]
    return tuple(shard.part(start, size) for start, size in zip(starts, sections, strict=True))
