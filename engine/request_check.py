"""What a request must be for an engine to take it. Knows ids and lengths, no state."""

from collections.abc import Collection

from engine.errors import InvalidInput, PromptTooLong
from engine.messages import EngineInfo, SequenceRequest


def check_request(request: SequenceRequest, info: EngineInfo) -> None:
    """Raises PromptTooLong or InvalidInput for one that can never run."""
    if not request.prompt_ids:
        raise InvalidInput("The prompt has no tokens.", "prompt")
    params = request.params
    num_tokens = len(request.prompt_ids) + min(params.max_tokens, 1)
    if num_tokens > info.context_length:
        raise PromptTooLong(num_tokens, info.context_length)
    given: dict[str, Collection[int]] = {
        "prompt": request.prompt_ids,
        "output_ids": request.output_ids,
        "stop_token_ids": params.stop_token_ids,
        "logit_bias": params.logit_bias,
        "allowed_token_ids": params.allowed_token_ids,
    }
    for param, ids in given.items():
        _check_ids(ids, param, info.vocab_size)
    for word in params.bad_words:
        _check_ids(word, "bad_words", info.vocab_size)


def _check_ids(ids: Collection[int], param: str, vocab_size: int) -> None:
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        bad = min(ids) if min(ids) < 0 else max(ids)
        raise InvalidInput(f"{bad} is no token id; this model's are 0 to {vocab_size - 1}.", param)
