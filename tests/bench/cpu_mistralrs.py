"""mistral.rs under the commands of tests/bench/cpu.py. Runs in an environment of its own.

    python tests/bench/cpu_mistralrs.py FILE     (with mistralrs alone; RAYON_NUM_THREADS is heeded)

There is no call for a step, so a batch is as many requests at once, streamed. Their decoding is
counted from when the last has its first token; what others have by then is counted too, to the
peer's good. A batch gets so many tokens that this is an eighth of them at most.
"""

import json
import os
import random
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mistralrs import ChatCompletionRequest, Runner, Which

MAX_SEQS = 16
STEPS_A_SEQ = 4  # of a batch; a request may be a step ahead of the last for every other one


class Peer:
    """One model with room for 16 sequences; greedy."""

    def __init__(self, path: str) -> None:
        file = Path(path)
        which = Which.GGUF(quantized_model_id=str(file.parent), quantized_filename=file.name)
        self._runner = Runner(which=which, max_seqs=MAX_SEQS, prefix_cache_n=0, token_source="none")
        self._takes_equal_lengths = True
        self._random = random.Random(0)

    def prefill(self, num_tokens: int) -> tuple[float, float, int]:
        """Wall and CPU seconds of one prompt, and its tokens."""
        start, cpu = time.perf_counter(), time.process_time()
        (stream,) = self._streams([num_tokens], 1)
        assert num_tokens == list(stream)[-1].usage.prompt_tokens
        return time.perf_counter() - start, time.process_time() - cpu, num_tokens

    def decode(self, num_seqs: int, num_steps: int, context: int) -> tuple[float, float, int]:
        """The same of some steps or more of sequences that have `context` tokens."""
        if num_seqs > 1:
            num_steps = max(num_steps, STEPS_A_SEQ * num_seqs)
        if self._takes_equal_lengths:
            try:
                return self._decode([context] * num_seqs, num_steps)
            except ValueError:
                # Version 0.9.5, with GGUF's types: "input tensor is not contiguous".
                self._takes_equal_lengths = False
        return self._decode(range(context, context + num_seqs), num_steps)

    def _decode(self, lengths: Iterable[int], num_steps: int) -> tuple[float, float, int]:
        streams = self._streams(lengths, num_steps + 1)
        try:
            for stream in streams:
                next(stream)
        except ValueError:
            _drain(streams)
            raise
        start, cpu = time.perf_counter(), time.process_time()
        ends = [list(stream)[-1] for stream in streams]
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        assert all(end.usage.completion_tokens == num_steps + 1 for end in ends)
        return wall, cpu, len(streams) * num_steps

    def _streams(self, lengths: Iterable[int], max_tokens: int) -> list[Any]:
        """Requests under way; a prompt of letters has a token for each."""
        return [
            self._runner.send_chat_completion_request(
                ChatCompletionRequest(
                    messages="".join(self._random.choices("abcdefgh", k=length)),
                    model="default",
                    max_tokens=max_tokens,
                    temperature=0.0,
                    ignore_eos=True,
                    stream=True,
                )
            )
            for length in lengths
        ]


def _drain(streams: Iterable[Any]) -> None:
    """Wait for what is still being computed of a batch that failed."""
    for stream in streams:
        with suppress(ValueError):
            for _ in stream:
                pass


def main() -> None:
    """A line before loading, one after it, then for a command a line in its figures a line out."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # mistral.rs writes a log to its standard output

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    answer("imported")
    peer = Peer(sys.argv[1])
    # Its cache grows with the sequences.
    answer({"cache_bytes": 0})
    for line in sys.stdin:
        name, *arguments = line.split()
        answer(getattr(peer, name)(*map(int, arguments)))


if __name__ == "__main__":
    main()
