"""Engines over a HashModel that decode by graphs on a late device."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.batch import Batch
from engine.engine import Engine
from engine.runner import Made
from engine.steps import Pipelined
from tests.engine.hash_model import HashModel, make_engine
from tests.engine.late_device import LateDevice


class GraphHashModel(HashModel):
    """A HashModel whose decode steps are tensor operations alone, padding included."""

    def forward(self, batch: Batch, kv_cache: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        if len(batch.token_ids) > len(batch.context_lengths):
            return super().forward(batch, kv_cache)
        keys, values = (cache.flatten() for cache in kv_cache[0])
        is_here = torch.arange(len(keys)) == batch.slots[:, None]
        for cells, new in ((keys, batch.token_ids + 1), (values, batch.positions)):
            cells.copy_(torch.where(is_here.any(0), (is_here * new[:, None]).sum(0), cells))
        blocks = batch.block_tables.flatten().long()
        seen, at = (
            cache.flatten(1).index_select(0, blocks).view(len(batch.slots), -1).long()
            for cache in kv_cache[0]
        )
        is_inside = torch.arange(seen.shape[1]) < batch.context_lengths[:, None]
        hashes = torch.where(is_inside, seen * (7919 * at + 13), 0).sum(1) % len(self.table)
        return hashes[:, None].float()

    def logits(self, hidden: Tensor) -> Tensor:
        return self.table.index_select(0, hidden[:, 0].long())


def make_graph_engine(
    reload: Callable[[str], HashModel] | None = None, **changes: object
) -> tuple[Engine, LateDevice]:
    """As `make_engine`, and the device."""
    device = LateDevice()
    engine = make_engine(GraphHashModel(), graph_device=device, reload=reload, **changes)  # type: ignore[arg-type]
    watch(engine, device)
    return engine, device


def watch(engine: Engine, device: LateDevice) -> None:
    """Have what is no graph's wait for all that was told, and outputs be spoilt before a replay."""
    steps, runner = engine._steps, engine._runner
    assert isinstance(steps, Pipelined)
    compute, sample = runner.compute, runner.sample

    def late(function: Callable[..., Made | None]) -> Any:
        def after(*given: object) -> Made | None:
            device.drain()
            return function(*given)

        return after

    runner.compute, runner.sample = late(compute), late(sample)  # type: ignore[method-assign]
    graphs = steps._runner._graphs
    device.outputs = [graphs.ids, graphs.logits]
