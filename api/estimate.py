"""How large a job is, before anybody has tokenized it. Knows bytes, no tokenizer."""

import msgspec

from api.errors import ApiError
from workers import contract

BYTES_PER_TOKEN = 4  # of ordinary English text
MAX_BYTES_PER_TOKEN = 128  # the longest tokens there are, which are of blanks
UNSAID_TOKENS = 256  # what an answer is thought to take whose request says no limit

_json = msgspec.json.Encoder().encode


def estimated(job: contract.Job, context_length: int | None) -> contract.Job:
    """The job with its `prompt_tokens` and its `cost`: prompt and answers, in tokens.

    No answer is longer than the model's context, if that is known.
    """
    prompt = prompt_tokens(job)
    answer = job.sampling.max_tokens or UNSAID_TOKENS
    if job.makes_vectors:
        answer = 0
    if context_length is not None:
        answer = min(answer, context_length)
    cost = prompt + job.num_choices * answer
    return msgspec.structs.replace(job, prompt_tokens=prompt, cost=cost)


def check_length(job: contract.Job, context_length: int) -> None:
    """Raise ApiError for a prompt that no tokenizer could make fit the model's context.

    The queue would keep it, and its record for as long as any answer. What is not that long is
    counted by a worker. One that may be cut always fits.
    """
    if job.messages is not None:
        _check_bytes(sum(map(_message_bytes, job.messages)), context_length, job.prompt_param)
    for prompt in job.prompts or ():
        if isinstance(prompt, str) and not job.max_input_tokens:
            _check_bytes(_bytes(prompt), context_length, job.prompt_param)


def _check_bytes(num_bytes: int, context_length: int, param: str) -> None:
    if num_bytes > context_length * MAX_BYTES_PER_TOKEN:
        what = f"This model's maximum context length is {context_length} tokens; "
        what += f"{num_bytes} bytes are more, whatever they say. Shorten the prompt."
        raise ApiError("context_length_exceeded", what, param)


def prompt_tokens(job: contract.Job) -> int:
    """The estimate of the tokens in a job's prompts; each prompt counts once, and as one at least.

    Token ids are counted as they are.
    """
    if job.messages is not None:
        return _tokens(sum(map(_message_bytes, job.messages)))
    counts = [_tokens(_bytes(p)) if isinstance(p, str) else len(p) for p in job.prompts or ()]
    if job.kind == "score" and job.num_queries == 1:  # which is read again with each document
        return sum(counts) + counts[0] * (len(counts) - 2)
    return sum(counts)


def _message_bytes(message: dict[str, object]) -> int:
    calls = message.get("tool_calls")
    return _bytes(str(message.get("content") or "")) + (len(_json(calls)) if calls else 0)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _tokens(num_bytes: int) -> int:
    return max(1, -(-num_bytes // BYTES_PER_TOKEN))
