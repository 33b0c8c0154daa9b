"""When a sequence ends: stop ids, minimum and maximum length. Knows token ids, no text."""

from collections.abc import Iterable
from typing import Literal

from engine.config import SamplingParams

Finish = Literal["stop", "length"]


class StopRule:
    """The end of one sequence. Lengths count prompt and output together.

    `stop_ids` end the sequence once more than `min_length` tokens are there; the sampler masks them
    until then. At `max_length` tokens the sequence ends whatever its last token is.
    """

    __slots__ = ("max_length", "min_length", "stop_ids")

    def __init__(self, stop_ids: Iterable[int], min_length: int, max_length: int) -> None:
        self.stop_ids = frozenset(stop_ids)
        self.min_length = min_length
        self.max_length = max_length

    @classmethod
    def of(
        cls, params: SamplingParams, num_prompt_tokens: int, eos_ids: Iterable[int], max_length: int
    ) -> "StopRule":
        """The rule that `params` asks for, its maximum clipped to the context's `max_length`."""
        return cls(
            (*params.stop_token_ids, *(() if params.ignore_eos else eos_ids)),
            num_prompt_tokens + params.min_tokens,
            min(num_prompt_tokens + params.max_tokens, max_length),
        )

    def check(self, token_id: int, length: int) -> Finish | None:
        """The finish reason of a sequence of `length` tokens whose last is `token_id`.

        A stop id at the maximum length is a stop.
        """
        if token_id in self.stop_ids and length > self.min_length:
            return "stop"
        return "length" if length >= self.max_length else None
