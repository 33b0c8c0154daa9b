"""What a loaded model consists of: how many tensors of which type, and how large they are."""

from collections import Counter

from gguf.constants import GGMLQuantizationType

from kernels import packed

_OWN = {number: name for name, number in vars(packed).items() if isinstance(number, int)}


class Contents:
    """Counts tensors by the name of their type."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.num_bytes = 0

    def add(self, kind: str, num_bytes: int) -> None:
        """One more tensor, in memory."""
        self.counts[kind] += 1
        self.num_bytes += num_bytes

    def __str__(self) -> str:
        listed = ", ".join(f"{count} {kind}" for kind, count in self.counts.most_common())
        return f"{self.num_bytes / 1e6:.1f} MB ({listed})"


def kind_name(kind: int) -> str:
    """The name of a kind of kernels/packed.py."""
    return _OWN.get(kind) or GGMLQuantizationType(kind).name
