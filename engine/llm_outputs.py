"""What `LLM` gives back, in vLLM's shape. Plain data."""

import msgspec


class Logprob(msgspec.Struct, frozen=True, kw_only=True):
    """A token's natural log-probability. `rank` 1 is the most probable; None if it is not among
    those that were asked for.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


Logprobs = dict[int, Logprob]  # by id: the token itself first, then the most probable ones


class CompletionOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. `index` is its number among the `n` of its prompt.

    `finish_reason` is `stop` or `length`. `stop_reason` is the stop string or the id of
    `stop_token_ids` that ended it; None for the model's own end and for `length`. `logprobs` has
    one item for each of `token_ids`, `cumulative_logprob` is their sum; None if not asked for.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str
    stop_reason: str | int | None = None
    logprobs: list[Logprobs] | None = None
    cumulative_logprob: float | None = None


class RequestOutput(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and its answers. `prompt` is the text, templates applied; None if ids were given.

    `num_cached_tokens` of the prompt were in the prefix cache. `prompt_logprobs` has one item for
    each of `prompt_token_ids`, None for the first; None if not asked for.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True
    num_cached_tokens: int = 0
    prompt_logprobs: list[Logprobs | None] | None = None
