"""Our engine under the commands of tests/bench/cpu.py. It is run with this checkout's Python.

python tests/bench/cpu_ours.py FILE THREADS ACTIVATIONS
"""

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from engine.config import EngineConfig, SamplingParams  # noqa: E402
from engine.engine import load_generator  # noqa: E402
from engine.messages import SequenceRequest  # noqa: E402
from engine.weights.files import ModelRef, resolve  # noqa: E402

CACHE_BYTES = 512 << 20


class Ours:
    """One model with room for 16 sequences; greedy."""

    def __init__(self, path: str, num_threads: int, activations: str) -> None:
        config = EngineConfig(
            device="cpu",
            max_seqs=16,
            max_model_len=2048,
            kv_cache_bytes=CACHE_BYTES,
            enable_prefix_cache=False,
            num_threads=num_threads,
            cpu_activations=activations,  # type: ignore[arg-type]
        )
        self._engine = load_generator(resolve(ModelRef(model=path)), config)
        self.cache_bytes = self._fill_cache()
        self._random = torch.Generator().manual_seed(0)
        self._number = 0

    def _fill_cache(self) -> int:
        """Its pages are taken as they are written to, in large ones by the system's choice: now."""
        tensors = [tensor for layer in self._engine._runner._kv_cache for tensor in layer]
        return sum(tensor.zero_().nbytes for tensor in tensors)

    def prefill(self, num_tokens: int) -> tuple[float, float, int]:
        """Wall and CPU seconds of one prompt, and its tokens."""
        self._add(num_tokens, 1)
        return *self._timed(1), num_tokens

    def decode(self, num_seqs: int, num_steps: int, context: int) -> tuple[float, float, int]:
        """The same of some steps of sequences that have `context` tokens."""
        for _ in range(num_seqs):
            self._add(context, num_steps + 1)
        self._engine.step()
        assert self._engine.stats().running == num_seqs
        figures = self._timed(num_steps)
        assert not self._engine.has_work()
        return *figures, num_seqs * num_steps

    def _add(self, num_tokens: int, max_tokens: int) -> None:
        vocab = self._engine.info.vocab_size
        ids = torch.randint(10, vocab, (num_tokens,), generator=self._random).tolist()
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        self._number += 1
        self._engine.add(SequenceRequest(id=str(self._number), prompt_ids=ids, params=params))

    def _timed(self, num_steps: int) -> tuple[float, float]:
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(num_steps):
            self._engine.step()
        return time.perf_counter() - start, time.process_time() - cpu


def main() -> None:
    """A line before loading, one after it, then for a command a line in its figures a line out."""
    torch.zeros(1) @ torch.zeros(1)
    print(json.dumps("imported"), flush=True)
    ours = Ours(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    print(json.dumps({"cache_bytes": ours.cache_bytes}), flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        print(json.dumps(getattr(ours, name)(*map(int, arguments))), flush=True)


if __name__ == "__main__":
    main()
