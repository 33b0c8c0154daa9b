"""A request's or answer's JSON without what people and models said in it. Pure.

What is known to be no content stays, other things of the API become their size, and what is not
known goes, its name too: a client may send whatever it likes.
"""

import re
from typing import Any

_NAME = re.compile(r"[\w.:/@-]{0,100}", re.ASCII)  # text has spaces or is longer


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Objects and lists whose inside is looked at.
_WALKED = _words(
    "messages choices message delta usage prompt_tokens_details completion_tokens_details "
    "input_tokens_details output_tokens_details stream_options error output input tool_calls "
    "function content data results"
)
# Values that say how, not what.
_KEPT = _words(
    "id object created created_at model role type index finish_reason status code n best_of stream "
    "temperature top_p top_k min_p seed max_tokens max_completion_tokens max_output_tokens "
    "min_tokens presence_penalty frequency_penalty repetition_penalty top_logprobs echo "
    "include_usage continuous_usage_stats prompt_tokens completion_tokens total_tokens "
    "input_tokens output_tokens cached_tokens reasoning_tokens service_tier ignore_eos "
    "system_fingerprint store background parallel_tool_calls reasoning_effort encoding_format "
    "dimensions truncate_prompt_tokens top_n return_documents max_tokens_per_doc score "
    "relevance_score"
)
_SIZED = _words(
    "text prompt reasoning_content arguments name instructions tools tool_choice metadata "
    "logprobs stop user suffix logit_bias response_format refusal summary reasoning "
    "previous_response_id conversation bad_words allowed_token_ids stop_token_ids "
    "embedding text_1 text_2 query documents document"
)


def redacted(body: Any) -> Any:
    """The same shape, with sizes in the place of content. `body` is as JSON has it."""
    if isinstance(body, dict):
        return {key: _value(key, body[key]) for key in body if key in _WALKED | _KEPT | _SIZED}
    if isinstance(body, list):
        return [redacted(item) for item in body]
    return _size(body)


def _value(key: str, value: Any) -> Any:
    if key in _WALKED and not (key == "input" and isinstance(value, dict)):  # of a tool's call
        return redacted(value)
    if key in _KEPT and _is_harmless(value):
        return value
    return _size(value)


def _is_harmless(value: Any) -> bool:
    if isinstance(value, str):
        return _NAME.fullmatch(value) is not None
    return not isinstance(value, dict | list)


def _size(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return f"[{len(value)} characters]"
    if isinstance(value, list):
        return f"[{len(value)} items]"
    return "[an object]" if isinstance(value, dict) else "[a number]"
