"""The progress of a call of `LLM` as a bar of requests, with tokens a second. Knows no engine."""

import time
from collections.abc import Callable
from typing import Any


class Silent:
    """No bar."""

    def made(self, num_tokens: int) -> None:
        """Nobody asks."""

    def ended(self, num_prompt_tokens: int) -> None:
        """Nobody asks."""

    def close(self) -> None:
        """There is nothing to close."""


class Bar:
    """A bar by `make`, which takes tqdm's arguments; its postfix is as vLLM's users know it."""

    def __init__(self, make: Callable[..., Any], num_requests: int) -> None:
        self._bar = make(
            total=num_requests, desc="Processed prompts", unit="prompt", dynamic_ncols=True
        )
        self._began_s = time.perf_counter()
        self._num_read = 0
        self._num_made = 0
        self._num_ended = 0

    def made(self, num_tokens: int) -> None:
        """A step is over that made so many tokens."""
        self._num_made += num_tokens
        if self._num_ended:
            elapsed_s = max(time.perf_counter() - self._began_s, 1e-9)
            read, written = self._num_read / elapsed_s, self._num_made / elapsed_s
            self._bar.set_postfix_str(
                f"input: {read:.1f} tokens/s, output: {written:.1f} tokens/s", refresh=False
            )
            self._bar.update(self._num_ended)
            self._num_ended = 0

    def ended(self, num_prompt_tokens: int) -> None:
        """A request is over."""
        self._num_read += num_prompt_tokens
        self._num_ended += 1

    def close(self) -> None:
        """Leave the line as it is."""
        self._bar.close()
