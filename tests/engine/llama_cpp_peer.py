"""llama.cpp, through llama-cpp-python, as a second opinion on GGUF files. Knows nothing of ours.

`make nightly-llama-cpp` installs it, for which it takes a C++ compiler and a quarter of an hour.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor


def library() -> Any:
    """The module, or a skipped test."""
    return pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed: make nightly-llama-cpp"
    )


class LlamaCpp:
    """A file that llama.cpp opened: float32 keys and values, no flash attention, one thread."""

    def __init__(self, path: Path, context_length: int = 256, vocab_only: bool = False) -> None:
        llama_cpp = library()
        self._llama = llama_cpp.Llama(
            str(path),
            vocab_only=vocab_only,
            n_ctx=context_length,
            n_batch=context_length,
            n_ubatch=context_length,
            n_threads=1,
            n_threads_batch=1,
            logits_all=True,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            flash_attn=False,
            # Its own defaults would win over what the file says; -1 is llama.cpp's "not set".
            yarn_attn_factor=-1.0,
            yarn_beta_fast=-1.0,
            yarn_beta_slow=-1.0,
            verbose=False,
        )

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """Logits [len(token_ids), vocab] of a sequence of its own."""
        self._llama.reset()
        self._llama.eval(list(token_ids))
        return torch.from_numpy(self._llama.scores[: len(token_ids)].copy())

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        """The most likely token, `num_tokens` times, whatever ends an answer."""
        made = [int(self.logits(prompt)[-1].argmax())]
        while len(made) < num_tokens:
            self._llama.eval([made[-1]])
            made.append(int(self._llama.scores[self._llama.n_tokens - 1].argmax()))
        return made

    def encode(self, text: str) -> list[int]:
        """Ids with those that the file adds at the ends; names of special tokens are these."""
        ids: list[int] = self._llama.tokenize(text.encode(), add_bos=True, special=True)
        return ids
