"""What a caller of `LLM` asks of the sampler, named as vLLM's users know it. Knows no engine.

Torch-free. `engine.config.SamplingParams` is what becomes of it for one sequence: every value
settled.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from engine import config
from engine.errors import InvalidInput
from engine.text.generation_config import GenerationDefaults

_FINITE = 1e9
_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Fraction = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Stop = Annotated[str, Meta(min_length=1)]


class _Fields(msgspec.Struct, frozen=True, kw_only=True):
    n: _Positive = 1
    temperature: Annotated[float, Meta(ge=0, le=_FINITE)] = 1.0
    top_p: _Fraction = 1.0
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] = 0
    min_p: _Fraction = 0.0
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    max_tokens: _Positive | None = 16
    min_tokens: _Count = 0
    stop: _Stop | Sequence[_Stop] | None = None
    stop_token_ids: Sequence[_Count] | None = None
    ignore_eos: bool = False
    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=_FINITE)] = 1.0
    logit_bias: dict[_Count, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    skip_special_tokens: bool = True


class Roles(NamedTuple):
    """Ids that a model's files give a role: they end an answer, or are never sampled."""

    end_ids: tuple[int, ...] = ()
    never_ids: tuple[int, ...] = ()


class SamplingParams(_Fields, frozen=True, kw_only=True):
    """How the answers to a prompt are sampled; the defaults are vLLM's.

    `n` answers a prompt; `temperature` 0 is greedy; `top_k` 0 or -1 is off; without a `seed` the
    LLM's own goes on; `max_tokens` None fills the context, and what does not fit it is cut. An
    answer ends before a `stop` string, after one of `stop_token_ids`, or with the model's own end
    unless `ignore_eos`; the last two not before `min_tokens`. Raises InvalidInput for a value that
    is out of range.
    """

    def __post_init__(self) -> None:
        try:
            msgspec.convert(msgspec.structs.asdict(self), _Fields)
        except msgspec.ValidationError as error:
            message, _, where = str(error).partition(" - at `$.")
            name = where.rstrip("`")
            raise InvalidInput(f"{name} of SamplingParams: {message}.", name) from error
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidInput("min_tokens must not exceed max_tokens.", "min_tokens")

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @classmethod
    def of_model(cls, defaults: GenerationDefaults) -> "SamplingParams":
        """What the model's makers recommend (generation_config.json), else the defaults here."""
        values = msgspec.structs.asdict(defaults).items()
        said = {k: v for k, v in values if v is not None and k in cls.__struct_fields__}
        if "top_k" in said:
            said["top_k"] = max(said["top_k"], 0)
        return cls(**said)

    def settled(self, *, seed: int, choice: int, room: int, roles: Roles) -> config.SamplingParams:
        """The values for answer `choice`, which has room for `room` tokens."""
        same: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                *("temperature", "top_p", "min_p", "min_tokens", "ignore_eos"),
                *("presence_penalty", "frequency_penalty", "repetition_penalty"),
            )
        }
        ends = () if self.ignore_eos else roles.end_ids
        return config.SamplingParams(
            max_tokens=room if self.max_tokens is None else min(self.max_tokens, room),
            seed=seed,
            choice=choice,
            top_k=max(self.top_k, 0),
            logit_bias=(self.logit_bias or {}) | dict.fromkeys(roles.never_ids, -math.inf),
            stop_token_ids=(*(self.stop_token_ids or ()), *ends),
            **same,
        )
