"""What the GPU engine is to reach, and which rows say how far it is."""

from collections.abc import Sequence
from typing import NamedTuple

from tests.bench.on_gpu.names import OURS, PEERS, step_name
from tests.bench.on_gpu.row import Row


class Target(NamedTuple):
    """At least `asked`: a share of the floor of the row `of`, or how often its value has the best
    of the other rows of its part in it.
    """

    name: str
    asked: float
    of: str
    is_ratio: bool = False

    def measured(self, rows: Sequence[Row]) -> float | None:
        """None where a row is missing."""
        found = {row.name: row for row in rows if row.state == "measured"}
        row = found.get(self.of)
        if row is None:
            return None
        if not self.is_ratio:
            return row.share
        others = [r.value for r in found.values() if r.part == PEERS and r.name != self.of]
        best = max((value for value in others if value is not None), default=None)
        return None if best is None or row.value is None else row.value / best

    def shown(self, value: float) -> str:
        """As the table has it."""
        return f"{value:.2f}" if self.is_ratio else f"{100 * value:.0f} %"


_SHARES = {"bf16": 0.75, "Q8_0": 0.65, "Q4_K": 0.5}
TARGETS = (
    *(
        Target(f"decode of Llama-3-8B's shape at batch 1, {kind}: share of the floor", asked, name)
        for kind, asked in _SHARES.items()
        for name in [step_name(kind, 1)]
    ),
    Target("throughput of 32 sequences over transformers' best", 5.0, OURS, is_ratio=True),
)
