"""Engines over a HashModel that decode by graphs on a late device."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.batch import Batch
from engine.engine import Engine
from engine.steps import Pipelined
from tests.engine.hash_model import HashModel, make_engine
from tests.engine.late_device import LateDevice


class GraphHashModel(HashModel):
    """A HashModel whose decode steps are tensor operations alone, padding included.

    Other steps wait for what the device has been told, as they would on it.
    """

    def __init__(self, device: LateDevice) -> None:
        super().__init__()
        self._device = device

    def forward(self, batch: Batch, kv_cache: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is None:
            self._device.drain()
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
    model = GraphHashModel(device)
    engine = make_engine(model, graph_device=device, reload=reload, **changes)  # type: ignore[arg-type]
    steps = engine._steps._steps  # of the careful ones
    assert isinstance(steps, Pipelined)
    # What is no graph's is computed at once here, and has to come behind all that was told.
    sample = engine._runner.sample
    engine._runner.sample = lambda *given: (device.drain(), sample(*given))[1]  # type: ignore[method-assign, func-returns-value]
    graphs = steps._runner._graphs
    device.outputs = [graphs.ids, graphs.logits]
    return engine, device
