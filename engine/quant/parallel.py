"""Work on parts of a matrix, a thread each. Knows no format."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch


def in_threads(task: Callable[[slice], None], parts: Sequence[slice]) -> None:
    """Run `task` for each of `parts`, as many at a time as torch has threads.

    Torch would share every operation among its threads instead, and there are hundreds for a block:
    as soon as the machine has other work, each waits for the slowest (measured: 18 times slower).
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1 or len(parts) == 1:
        for part in parts:
            task(part)
        return
    try:
        with ThreadPoolExecutor(num_threads, "quantise", _alone) as threads:
            list(threads.map(task, parts))
    finally:
        torch.set_num_threads(num_threads)  # what a thread sets is the default of later ones


def _alone() -> None:
    torch.set_num_threads(1)
