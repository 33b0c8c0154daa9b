"""The ways to stretch rotary positions, as checked plain data. Torch-free.

layers/rotary.py has the arithmetic.
"""

from typing import Annotated, Any

import msgspec

from engine.config import ModelConfig
from engine.errors import LoadError

Positive = Annotated[float, msgspec.Meta(gt=0)]
SUPPORTED = ("default", "linear", "llama3", "yarn", "longrope")
_OLD_NAMES = {"su": "longrope"}


class Linear(msgspec.Struct, frozen=True, tag_field="rope_type", tag="linear"):
    """Every frequency divided by `factor`."""

    factor: Positive


class Llama3(msgspec.Struct, frozen=True, tag_field="rope_type", tag="llama3"):
    """Llama 3.1's: low frequencies divided by `factor`, high ones kept, a ramp between."""

    factor: Positive
    low_freq_factor: Positive
    high_freq_factor: Positive
    original_max_position_embeddings: Positive

    def __post_init__(self) -> None:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("`high_freq_factor` must be greater than `low_freq_factor`")


class Yarn(msgspec.Struct, frozen=True, tag_field="rope_type", tag="yarn", omit_defaults=True):
    """YaRN (arXiv 2309.00071), with the knobs that config.json files set."""

    factor: Positive
    original_max_position_embeddings: Positive
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


class LongRope(
    msgspec.Struct, frozen=True, tag_field="rope_type", tag="longrope", omit_defaults=True
):
    """LongRoPE (arXiv 2402.13753): one divisor per frequency, of two lists.

    Sequences of more than `original_max_position_embeddings` tokens have the long factors.
    """

    short_factor: tuple[Positive, ...]
    long_factor: tuple[Positive, ...]
    original_max_position_embeddings: Positive
    factor: Positive | None = None  # None: the context length by the original one
    attention_factor: float | None = None


class Factors(msgspec.Struct, frozen=True, tag_field="rope_type", tag="factors"):
    """One divisor per frequency, as a GGUF file's rope_freqs.weight has them."""

    factors: tuple[float, ...]


RopeScaling = Linear | Llama3 | Yarn | LongRope | Factors


def parse_rope_scaling(values: dict[str, Any], where: str) -> dict[str, Any] | None:
    """`values` checked and in one spelling, None for no scaling. `where` names their source.

    Raises LoadError for a kind that is not supported and for a missing or nonsensical key.
    """
    kind = values.get("rope_type") or values.get("type") or "default"
    kind = _OLD_NAMES.get(str(kind), kind)  # a file may have any JSON there
    if kind == "default":
        return None
    if kind not in SUPPORTED:
        raise LoadError(
            f"{where} asks for rope scaling {kind!r}, which is not supported; supported are "
            f"{', '.join(SUPPORTED)}. Remove it to serve the model's original context length."
        )
    try:
        scaling = msgspec.convert({**values, "rope_type": kind}, RopeScaling)
    except msgspec.ValidationError as error:
        raise LoadError(f"{where} has bad rope scaling values: {error}.") from error
    return dump_rope_scaling(scaling)


def dump_rope_scaling(scaling: RopeScaling) -> dict[str, Any]:
    """The plain form that `ModelConfig.rope_scaling` holds."""
    plain: dict[str, Any] = msgspec.to_builtins(scaling)
    return plain


def load_rope_scaling(plain: dict[str, Any] | None) -> RopeScaling | None:
    """The typed form of what `ModelConfig.rope_scaling` holds."""
    return None if plain is None else msgspec.convert(plain, RopeScaling)


def rope_switch(config: ModelConfig, context_length: int) -> int:
    """The longest sequence of the model's first set of frequencies; longer ones have the second.

    0 if there is one set, or no sequence of `context_length` tokens gets so long.
    """
    scaling = load_rope_scaling(config.rope_scaling)
    if not isinstance(scaling, LongRope):
        return 0
    original = int(scaling.original_max_position_embeddings)
    return original if original < context_length else 0


def check_rope_factors(config: ModelConfig, name: str) -> None:
    """Raise LoadError naming `name` unless there is a factor for each of the frequencies."""
    scaling = load_rope_scaling(config.rope_scaling)
    if not isinstance(scaling, LongRope):
        return
    for key, factors in (("short", scaling.short_factor), ("long", scaling.long_factor)):
        if len(factors) != config.num_turned // 2:
            raise LoadError(
                f"{name} has {len(factors)} {key} rope factors, but its heads turn "
                f"{config.num_turned} dimensions, which takes {config.num_turned // 2}."
            )
