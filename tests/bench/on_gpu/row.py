"""What the GPU bench finds, row by row, and the ceilings that rows are held against. Plain data."""

from typing import Literal

import msgspec

# measured: a time or a rate; checked: right, and nothing to time; wrong: not near its reference,
# so it was not timed; failed: an error; skipped: not tried.
State = Literal["measured", "checked", "wrong", "failed", "skipped"]


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the table.

    `floor` is in the unit of `value`, the least time that the ceilings allow. `error` is relative,
    to float64 or what `note` says, and `bound` is the most that counts as right.
    """

    part: str
    name: str
    state: State
    value: float | None = None
    unit: str = ""
    floor: float | None = None
    error: float | None = None
    bound: float | None = None
    note: str = ""

    @property
    def share(self) -> float | None:
        """Of the floor in the time, 1 being all that the machine can do."""
        if self.value is None or self.floor is None:
            return None
        return self.floor / self.value


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine can do, as measured in the same run."""

    copy_bytes_s: float  # read and written
    products_s: float  # operations of a bfloat16 product, two for each multiplication
    launch_us: float  # from one kernel to the next within a graph

    def floor(self, num_bytes: float, num_operations: float = 0.0) -> tuple[float, str]:
        """The least microseconds, and which ceiling sets them."""
        floors = {
            "bytes": 1e6 * num_bytes / self.copy_bytes_s,
            "operations": 1e6 * num_operations / self.products_s,
            "launch": self.launch_us,
        }
        limit = max(floors, key=floors.__getitem__)
        return floors[limit], limit


# The rows of the part "ceilings" that later parts need, by name.
COPY, PRODUCT, LAUNCH = "copy", "bfloat16 product by cuBLAS", "kernel after kernel in a graph"


def ceilings_of(rows: list[Row]) -> Ceilings | None:
    """What the rows of the first part say; None if one of the three is missing."""
    found = {row.name: row.value for row in rows if row.state == "measured"}
    copy, product, launch = (found.get(name) for name in (COPY, PRODUCT, LAUNCH))
    if copy is None or product is None or launch is None:
        return None
    return Ceilings(copy_bytes_s=1e9 * copy, products_s=1e12 * product, launch_us=launch)
