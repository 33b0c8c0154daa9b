"""The body of a text completion request, and the prompts it puts into a job.

Knows no HTTP and no tokenizer.
"""

from typing import Annotated, ClassVar

from msgspec import Meta

from api.errors import ApiError
from api.schema.sampling import MAX_CHOICES, SamplingFields, TopLogprobs, _Count, check_token_ids
from api.schema.structured import NAMES as STRUCTURED

DEFAULT_MAX_TOKENS = 16

_TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_PROMPT = "prompt"


class CompletionRequest(SamplingFields, kw_only=True):
    """POST /v1/completions. `prompt` is text, texts, token ids or lists of token ids."""

    supported: ClassVar[frozenset[str]] = STRUCTURED | {"logprobs", "echo"}

    prompt: str | list[str | _TokenId | list[_TokenId]]
    max_tokens: _Count | None = None
    logprobs: TopLogprobs | None = None
    echo: bool | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None

    @property
    def token_limit(self) -> int:
        """Most tokens per choice."""
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    def num_logprobs(self) -> int | None:
        """As SamplingFields has it."""
        return 0 if self.logprobs is None and self.chooses else self.logprobs

    @property
    def num_written(self) -> int:
        """Answers that are written to each prompt."""
        return self.best_of or self.n or 1

    @property
    def chooses(self) -> bool:
        """True if more answers are written than are shown."""
        return self.num_written > (self.n or 1)

    def _check_best_of(self) -> None:
        if self.num_written < (self.n or 1):
            raise ApiError("invalid_value", "'best_of' must not be below 'n'.", "best_of")
        if self.chooses and self.stream:
            what = "'best_of' above 'n' cannot be streamed: the best are known at the end."
            raise ApiError("invalid_value", what, "best_of")

    def wire_prompts(self, vocab_size: int) -> list[str | list[int]]:
        """The prompts, none of them empty. Raises ApiError."""
        prompts = self._prompts()
        for prompt in prompts:
            if not prompt:
                raise ApiError("invalid_value", "A prompt must not be empty.", _PROMPT)
            if not isinstance(prompt, str):
                check_token_ids(prompt, vocab_size, _PROMPT)
        if len(prompts) * self.num_written > MAX_CHOICES:
            raise ApiError(
                "invalid_value", f"'n' times the number of prompts exceeds {MAX_CHOICES}.", "n"
            )
        return prompts

    def _prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        token_ids = [item for item in self.prompt if isinstance(item, int)]
        prompts = [item for item in self.prompt if not isinstance(item, int)]
        if token_ids and prompts:
            raise ApiError("invalid_type", "'prompt' mixes token ids with whole prompts.", _PROMPT)
        return prompts or [token_ids]
