"""The request fields that chat and text completions share, and the Sampling they ask for.

Knows no HTTP.
"""

import secrets
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.errors import ApiError
from api.schema.refused import RefusedFields
from api.schema.structured import constraint_of
from workers import contract

MAX_CHOICES = 256

_INT64 = Meta(ge=-(2**63), le=2**63 - 1)
_Seed = Annotated[int, _INT64]
_PositiveInt = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
MAX_LOGPROBS = 20
TopLogprobs = Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)]
_Fraction = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Bias = Annotated[float, Meta(ge=-100, le=100)]
# A stop string is matched against every token's text and travels with the job.
MAX_STOP_LENGTH = 4096
_StopString = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_LENGTH)]

_BadWord = Annotated[str, Meta(min_length=1, max_length=256)]
_Breaker = Annotated[str, Meta(min_length=1, max_length=64)]

_Key = Annotated[str, Meta(min_length=1, max_length=64)]
_Value = Annotated[str, Meta(max_length=512)]
Metadata = Annotated[dict[_Key, _Value], Meta(max_length=16)]
Tier = Literal["auto", "default", "flex", "scale", "priority", "fast"]


class StreamOptions(msgspec.Struct):
    """What a stream carries beside the text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingFields(RefusedFields, kw_only=True):
    """Fields of both kinds of request; None means that the client did not say."""

    model: str = "default"
    max_tokens: _PositiveInt | None = None
    min_tokens: _Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: _Fraction | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: dict[int, _Bias] | None = None
    seed: _Seed | None = None
    stop: str | Annotated[list[_StopString], Meta(max_length=16)] | None = None
    stop_token_ids: Annotated[list[_Count], Meta(max_length=256)] | None = None
    ignore_eos: bool | None = None
    allowed_token_ids: Annotated[list[_Count], Meta(min_length=1)] | None = None
    bad_words: Annotated[list[_BadWord], Meta(max_length=128)] | None = None
    dry_multiplier: Annotated[float, Meta(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Meta(ge=1, le=100)] | None = None
    dry_allowed_length: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    dry_sequence_breakers: Annotated[list[_Breaker], Meta(max_length=64)] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    truncate_sequence: bool | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    best_of: Any = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    service_tier: Tier | None = None
    metadata: Metadata | None = None
    # Taken, and of no effect: a tenant's own words for its users and its prompts.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def has_usage(self) -> bool:
        """True if the stream is to end with a usage chunk."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def has_usage_always(self) -> bool:
        """True if every chunk of the stream is to tell the usage so far."""
        return self.stream_options is not None and bool(self.stream_options.continuous_usage_stats)

    def sampling(self, max_tokens: int | None, vocab_size: int) -> contract.Sampling:
        """What the sampler gets; a seed is drawn if there is none. Raises ApiError."""
        self.check_refused()
        self._check(max_tokens, vocab_size)
        return contract.Sampling(
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            temperature=self.temperature,
            top_k=None if self.top_k is None else max(self.top_k, 0),
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=self.logit_bias or {},
            stop=self._stop_strings(),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            allowed_token_ids=tuple(self.allowed_token_ids or ()),
            bad_words=tuple(self.bad_words or ()),
            dry=self._dry(),
            includes_stop=bool(self.include_stop_str_in_output),
            shows_special_tokens=self.skip_special_tokens is False,
            truncates_prompt=bool(self.truncate_sequence),
            logprobs=self.num_logprobs(),
        )

    def constraint(self) -> contract.Constraint | None:
        """What the answer must look like. Raises ApiError."""
        return constraint_of(self)

    def _dry(self) -> contract.Dry | None:
        if not self.dry_multiplier:
            return None
        asked = {
            "base": self.dry_base,
            "allowed_length": self.dry_allowed_length,
            "breakers": self.dry_sequence_breakers,
        }
        said: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        if "breakers" in said:
            said["breakers"] = tuple(said["breakers"])
        return contract.Dry(multiplier=self.dry_multiplier, **said)

    def num_logprobs(self) -> int | None:
        """Alternatives beside each token's log-probability; None: no word of it."""
        return None

    def _check(self, max_tokens: int | None, vocab_size: int) -> None:
        self._check_best_of()
        if max_tokens is not None and (self.min_tokens or 0) > max_tokens:
            raise ApiError(
                "invalid_value", "'min_tokens' must not exceed the token limit.", "min_tokens"
            )
        check_token_ids(self.logit_bias or (), vocab_size, "logit_bias")
        check_token_ids(self.stop_token_ids or (), vocab_size, "stop_token_ids")
        check_token_ids(self.allowed_token_ids or (), vocab_size, "allowed_token_ids")

    def _check_best_of(self) -> None:
        if self.best_of not in (None, self.n or 1):
            raise ApiError(
                "unsupported_parameter", "'best_of' must be equal to 'n' or be left out.", "best_of"
            )

    def _stop_strings(self) -> tuple[str, ...]:
        if self.stop == "":
            raise ApiError("invalid_value", "A stop string must not be empty.", "stop")
        if isinstance(self.stop, str) and len(self.stop) > MAX_STOP_LENGTH:
            what = f"A stop string has at most {MAX_STOP_LENGTH} characters."
            raise ApiError("invalid_value", what, "stop")
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def check_token_ids(token_ids: Any, vocab_size: int, param: str) -> None:
    """Raise ApiError unless every id (of a list or of a dict's keys) is in the vocabulary."""
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < vocab_size):
        bad = next(i for i in token_ids if not 0 <= i < vocab_size)
        raise ApiError(
            "invalid_value",
            f"Token id {bad} is not in the vocabulary (0..{vocab_size - 1}).",
            param,
        )
