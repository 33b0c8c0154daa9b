"""The engine's log-probabilities as a log has them: tokens as bytes. Knows no job."""

from collections.abc import Sequence

from engine.messages import TokenLogprob as EngineLogprob
from engine.text.tokenizer import Tokenizer
from workers.contract import TokenLogprob


def of_tokens(
    tokenizer: Tokenizer, token_ids: Sequence[int], described: Sequence[EngineLogprob]
) -> tuple[TokenLogprob, ...] | None:
    """Those of `token_ids`, one for each; None if the engine was not asked."""
    if not described:
        return None
    return tuple(
        TokenLogprob(
            tokenizer.token_bytes(token_id),
            item.logprob,
            tuple((tokenizer.token_bytes(other), value) for other, value in item.top),
        )
        for token_id, item in zip(token_ids, described, strict=True)
    )


def of_prompt(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], described: Sequence[EngineLogprob]
) -> tuple[TokenLogprob, ...]:
    """Those of a prompt, whose first token has none."""
    first = TokenLogprob(tokenizer.token_bytes(prompt_ids[0]), None)
    return (first, *(of_tokens(tokenizer, prompt_ids[1:], described) or ()))
