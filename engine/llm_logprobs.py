"""The engine's log-probabilities in vLLM's shape: a dict of ids for each place. Knows no engine."""

from collections.abc import Sequence

from engine.llm_outputs import Logprob, Logprobs
from engine.messages import TokenLogprob
from engine.text.tokenizer import Tokenizer


def of_tokens(
    tokenizer: Tokenizer, token_ids: Sequence[int], described: Sequence[TokenLogprob]
) -> list[Logprobs]:
    """For each of `token_ids`: itself, then the most probable ids in its place."""
    pairs = zip(token_ids, described, strict=True)
    return [_of_token(tokenizer, token_id, item) for token_id, item in pairs]


def _of_token(tokenizer: Tokenizer, token_id: int, item: TokenLogprob) -> Logprobs:
    ranks = {other: rank for rank, (other, _) in enumerate(item.top, start=1)}
    values = {token_id: item.logprob, **{o: v for o, v in item.top if o != token_id}}
    return {
        other: Logprob(
            logprob=value,
            rank=ranks.get(other),
            decoded_token=tokenizer.token_bytes(other).decode("utf-8", "replace"),
        )
        for other, value in values.items()
    }
