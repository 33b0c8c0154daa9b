"""The table of tests/bench/perplexity.py, and what is wrong with it. Knows no engine."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

MAX_OVER = 0.01
# Types of fewer bits may be this much better than one of more: they differ in more than bits.
ORDER_TOLERANCE = 0.005
_HEAD = (
    "| model | type | bits | float | int8 | llama.cpp | its file | over |\n"
    "|---|---|---|---|---|---|---|---|"
)


class Row(NamedTuple):
    """Perplexities of a model whose matrices are of one type."""

    model: str
    type: str
    bits: float  # for a weight
    exact: float
    int8: float | None = None
    llama_cpp: float | None = None
    its_file: float | None = None

    def figures(self) -> Iterator[tuple[str, float]]:
        """Those that there are, by name."""
        for name in ("exact", "int8", "llama_cpp", "its_file"):
            if (value := getattr(self, name)) is not None:
                yield name, value

    def over(self) -> float | None:
        """How much more than llama.cpp's ours is, as a share; below zero ours is better."""
        if self.llama_cpp is None:
            return None
        return max(self.exact, self.int8 or 0.0) / self.llama_cpp - 1


def table(rows: Sequence[Row]) -> str:
    """In markdown, a line for a row."""
    lines = [_HEAD]
    for row in rows:
        values = (row.exact, row.int8, row.llama_cpp, row.its_file)
        cells = ["" if value is None else f"{value:.4f}" for value in values]
        over = row.over()
        last = "" if over is None else f"{100 * over:+.2f} %"
        lines.append(
            f"| {row.model} | {row.type} | {row.bits:.2f} | {' | '.join(cells)} | {last} |"
        )
    return "\n".join(lines)


def problems(rows: Sequence[Row]) -> list[str]:
    """Sentences about rows that are off, or out of order."""
    found = [
        f"{row.model} {row.type}: {100 * over:+.2f} % over llama.cpp's."
        for row in rows
        if (over := row.over()) is not None and over > MAX_OVER
    ]
    for _, same in groupby(rows, lambda row: row.model):
        found += _out_of_order(list(same))
    return found


def _out_of_order(rows: Sequence[Row]) -> Iterator[str]:
    """Each type against all of at least a bit less for a weight."""
    for more in rows:
        for less in rows:
            if more.bits - less.bits >= 1 and less.exact < more.exact / (1 + ORDER_TOLERANCE):
                yield f"{more.model}: {less.type} is better than {more.type}."
