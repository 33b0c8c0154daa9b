"""What `LLM` gives back, in vLLM's shape. Plain data."""

import msgspec


class CompletionOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. `index` is its number among the `n` of its prompt.

    `finish_reason` is `stop` or `length`. `stop_reason` is the stop string or the id of
    `stop_token_ids` that ended it; None for the model's own end and for `length`.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str
    stop_reason: str | int | None = None


class RequestOutput(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and its answers. `prompt` is the text, templates applied; None if ids were given.

    `num_cached_tokens` of the prompt were in the prefix cache.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True
    num_cached_tokens: int = 0
