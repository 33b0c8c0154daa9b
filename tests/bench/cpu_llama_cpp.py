"""llama.cpp under the commands of tests/bench/cpu.py. Runs in an environment of its own.

python tests/bench/cpu_llama_cpp.py FILE THREADS     (with llama-cpp-python and numpy alone)
"""

import ctypes
import json
import sys
import time

import llama_cpp as ll
import numpy as np

MAX_SEQS, CONTEXT = 16, 2048


class Peer:
    """One model with room for 16 sequences; greedy, with llama.cpp's own sampler."""

    def __init__(self, path: str, num_threads: int) -> None:
        ll.llama_backend_init()
        self._log = ll.llama_log_callback(lambda *_: None)
        ll.llama_log_set(self._log, ctypes.c_void_p(0))
        self._model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
        params = ll.llama_context_default_params()
        params.n_ctx = CONTEXT * 2
        params.n_batch, params.n_ubatch = CONTEXT, 512
        params.n_seq_max = MAX_SEQS
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = num_threads
        self._context = ll.llama_init_from_model(self._model, params)
        self._batch = ll.llama_batch_init(CONTEXT, 0, 1)
        self._sampler = ll.llama_sampler_init_greedy()
        self._random = np.random.default_rng(0)
        self.cache_bytes = self._cache_bytes()
        self._vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self._model))

    def prefill(self, num_tokens: int) -> tuple[float, float, int]:
        """Wall and CPU seconds of one prompt, and its tokens."""
        self._clear()
        tokens = [(token, 0, place) for place, token in enumerate(self._ids(num_tokens))]
        return *self._timed(lambda: self._decode(tokens)), num_tokens

    def decode(self, num_seqs: int, num_steps: int, context: int) -> tuple[float, float, int]:
        """The same of some steps of sequences that have `context` tokens."""
        self._clear()
        for seq in range(num_seqs):
            last = self._decode([(t, seq, place) for place, t in enumerate(self._ids(context))])
        latest = [last[0]] * num_seqs
        place = context

        def steps() -> None:
            nonlocal latest, place
            for _ in range(num_steps):
                latest = self._decode([(t, seq, place) for seq, t in enumerate(latest)])
                place += 1

        return *self._timed(steps), num_seqs * num_steps

    def _cache_bytes(self) -> int:
        """Of keys and values in float16, all taken at the start."""
        model = self._model
        head_dim = self._number("attention.key_length")
        heads, layers = ll.llama_model_n_head_kv(model), ll.llama_model_n_layer(model)
        return int(2 * 2 * 2 * CONTEXT * layers * heads * head_dim)

    def _number(self, key: str) -> int:
        text = ctypes.create_string_buffer(64)
        ll.llama_model_meta_val_str(self._model, b"general.architecture", text, 64)
        ll.llama_model_meta_val_str(self._model, text.value + b"." + key.encode(), text, 64)
        return int(text.value)

    def _ids(self, count: int) -> list[int]:
        return [int(i) for i in self._random.integers(10, self._vocab, count)]

    def _clear(self) -> None:
        ll.llama_memory_clear(ll.llama_get_memory(self._context), True)

    def _decode(self, tokens: list[tuple[int, int, int]]) -> list[int]:
        """The next token of each sequence of (token, sequence, place)."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        ends = []
        for i, (token, seq, place) in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, place
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = seq
            is_last = i + 1 == len(tokens) or tokens[i + 1][1] != seq
            batch.logits[i] = is_last
            if is_last:
                ends.append(i)
        assert ll.llama_decode(self._context, batch) == 0
        return [ll.llama_sampler_sample(self._sampler, self._context, i) for i in ends]

    def _timed(self, work) -> tuple[float, float]:
        start, cpu = time.perf_counter(), time.process_time()
        work()
        return time.perf_counter() - start, time.process_time() - cpu


def main() -> None:
    """A line before loading, one after it, then for a command a line in its figures a line out."""
    print(json.dumps("imported"), flush=True)
    peer = Peer(sys.argv[1], int(sys.argv[2]))
    print(json.dumps({"cache_bytes": peer.cache_bytes}), flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        print(json.dumps(getattr(peer, name)(*map(int, arguments))), flush=True)


if __name__ == "__main__":
    main()
