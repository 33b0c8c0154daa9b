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
from engine.llm_guided import StructuredOutputsParams
from engine.text.generation_config import GenerationDefaults
from engine.text.tokenizer import Tokenizer
from engine.text.word_rules import BREAKERS, Rules, bad_word_ids, dry_params

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
    include_stop_str_in_output: bool = False
    logprobs: _Count | None = None
    prompt_logprobs: _Count | None = None
    bad_words: Sequence[_Stop] | None = None
    allowed_token_ids: Annotated[Sequence[_Count], Meta(min_length=1)] | None = None
    dry_multiplier: Annotated[float, Meta(ge=0, le=100)] = 0.0
    dry_base: Annotated[float, Meta(ge=1, le=100)] = 1.75
    dry_allowed_length: _Positive = 2
    dry_sequence_breakers: Sequence[_Stop] = BREAKERS


class Roles(NamedTuple):
    """Ids that a model's files give a role: they end an answer, or are never sampled."""

    end_ids: tuple[int, ...] = ()
    never_ids: tuple[int, ...] = ()


class SamplingParams(_Fields, frozen=True, kw_only=True):
    """How the answers to a prompt are sampled; the defaults are vLLM's.

    `n` answers a prompt; `temperature` 0 is greedy; `top_k` 0 or -1 is off; without a `seed` the
    LLM's own goes on; `max_tokens` None fills the context, and what does not fit it is cut. An
    answer ends before a `stop` string, after one of `stop_token_ids`, or with the model's own end
    unless `ignore_eos`; the last two not before `min_tokens`. `logprobs` and `prompt_logprobs` are
    how many alternatives are told beside each token's. `bad_words` never come, of tokens only
    `allowed_token_ids`. `dry_multiplier` 0 is no DRY; no repetition goes across one of
    `dry_sequence_breakers`. `structured_outputs` (or `guided_decoding`) is what the answer looks
    like. Raises InvalidInput for a value that is out of range.
    """

    structured_outputs: StructuredOutputsParams | None = None
    guided_decoding: StructuredOutputsParams | None = None

    def __post_init__(self) -> None:
        try:
            msgspec.convert(
                {name: getattr(self, name) for name in _Fields.__struct_fields__}, _Fields
            )
        except msgspec.ValidationError as error:
            message, _, where = str(error).partition(" - at `$.")
            name = where.rstrip("`")
            raise InvalidInput(f"{name} of SamplingParams: {message}.", name) from error
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidInput("min_tokens must not exceed max_tokens.", "min_tokens")
        if not isinstance(self.structure, StructuredOutputsParams | None):
            raise InvalidInput(
                "structured_outputs is StructuredOutputsParams.", "structured_outputs"
            )
        if self.structured_outputs is not None and self.guided_decoding is not None:
            what = "structured_outputs and guided_decoding are the same; give one of them."
            raise InvalidInput(what, "guided_decoding")

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

    @property
    def structure(self) -> StructuredOutputsParams | None:
        """What the answer looks like, under either name."""
        return self.structured_outputs or self.guided_decoding

    def rules(self, tokenizer: Tokenizer, vocab_size: int) -> Rules:
        """The rules about words."""
        dry = None
        if self.dry_multiplier:
            dry = dry_params(
                tokenizer,
                vocab_size,
                multiplier=self.dry_multiplier,
                base=self.dry_base,
                allowed_length=self.dry_allowed_length,
                breakers=tuple(self.dry_sequence_breakers),
            )
        return Rules(bad_word_ids(self.bad_words or (), tokenizer), dry)

    def settled(
        self,
        *,
        seed: int,
        choice: int,
        room: int,
        roles: Roles,
        rules: Rules | None = None,
        grammar: str = "",
    ) -> config.SamplingParams:
        """The values for answer `choice`, which has room for `room` tokens."""
        same: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                *("temperature", "top_p", "min_p", "min_tokens", "ignore_eos"),
                *("presence_penalty", "frequency_penalty", "repetition_penalty"),
            )
        }
        ends = () if self.ignore_eos else roles.end_ids
        rules = rules or Rules()
        return config.SamplingParams(
            max_tokens=room if self.max_tokens is None else min(self.max_tokens, room),
            seed=seed,
            choice=choice,
            top_k=max(self.top_k, 0),
            logit_bias=(self.logit_bias or {}) | dict.fromkeys(roles.never_ids, -math.inf),
            stop_token_ids=(*(self.stop_token_ids or ()), *ends),
            allowed_token_ids=tuple(self.allowed_token_ids or ()),
            bad_words=rules.bad_words,
            dry=rules.dry,
            grammar=grammar,
            num_logprobs=self.logprobs,
            # All answers to a prompt would say the same of it.
            num_prompt_logprobs=None if choice else self.prompt_logprobs,
            **same,
        )
