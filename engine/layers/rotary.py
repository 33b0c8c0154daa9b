"""Rotary positions: the frequencies of each kind of scaling, and the angles of a step's tokens.

The arithmetic follows transformers' modeling_rope_utils in float32, so that logits agree.
"""

import math

import torch
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.weights.rope_scaling import (
    Factors,
    Linear,
    Llama3,
    LongRope,
    Yarn,
    load_rope_scaling,
)

Rotation = tuple[Tensor, Tensor]  # cosines and sines, each [T, R / 2] float32, R turned dimensions

_GLOBAL, _LOCAL = 0, 1


class RotaryEmbedding(nn.Module):
    """Cosines and sines for `kernels.ops.rotary`, computed once per step for all layers."""

    inverse_frequencies: Tensor  # [R / 2] float32, or [N, R / 2] of N sets

    def __init__(self, frequencies: Tensor, magnitude: float, device: torch.device) -> None:
        """`frequencies` are radians per position; cosines and sines are times `magnitude`.

        Frequencies [N, R / 2] are N sets, of which each token has one.
        """
        super().__init__()
        self.magnitude = magnitude
        self.register_buffer("inverse_frequencies", frequencies.to(device), persistent=False)

    def forward(self, positions: Tensor, sets: Tensor | None = None) -> Rotation:
        """Positions [T] to cosines and sines [T, R / 2], float32.

        `sets` [T] says which set of frequencies each token has; None: all have the first.
        """
        frequencies = self.inverse_frequencies
        if frequencies.dim() == 2:
            frequencies = frequencies[0] if sets is None else frequencies.index_select(0, sets)
        angles = positions[:, None].float() * frequencies
        return angles.cos() * self.magnitude, angles.sin() * self.magnitude


def make_rotaries(config: ModelConfig, device: torch.device) -> list[RotaryEmbedding]:
    """The model's one rotary or, if layers with a window have another, that one second."""
    rotaries = [RotaryEmbedding(*rope_frequencies(config), device)]
    if config.local_rope_theta:
        local = _plain_frequencies(config, config.local_rope_theta)
        rotaries.append(RotaryEmbedding(local, 1.0, device))
    return rotaries


def rotary_of(config: ModelConfig, layer: int) -> int | None:
    """Which of `make_rotaries` a layer uses; None: its queries and keys are not turned."""
    if layer in config.rope_free_layers:
        return None
    return _LOCAL if config.local_rope_theta and config.window(layer) else _GLOBAL


def _plain_frequencies(config: ModelConfig, theta: float) -> Tensor:
    return 1.0 / _plain_inverses(config, theta)


def _plain_inverses(config: ModelConfig, theta: float) -> Tensor:
    size = config.num_turned
    inverses: Tensor = theta ** (torch.arange(0, size, 2, dtype=torch.float) / size)
    return inverses


def rope_frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """Radians per position, [R / 2] float32, and a factor for cosines and sines.

    LongRoPE has [2, R / 2]: those of short sequences and those of long ones.
    """
    frequencies = _plain_frequencies(config, config.rope_theta)
    match load_rope_scaling(config.rope_scaling):
        case None:
            return frequencies, 1.0
        case Linear(factor):
            return frequencies / factor, 1.0
        case Factors(factors):
            return frequencies / torch.tensor(factors), 1.0
        case Llama3() as scaling:
            return _llama3(frequencies, scaling), 1.0
        case Yarn() as scaling:
            return _yarn(frequencies, scaling, config), _yarn_magnitude(scaling)
        case LongRope() as scaling:
            divisors = torch.tensor([scaling.short_factor, scaling.long_factor])
            divisors *= _plain_inverses(config, config.rope_theta)
            return 1.0 / divisors, _longrope_magnitude(scaling, config)


def _llama3(frequencies: Tensor, scaling: Llama3) -> Tensor:
    original = scaling.original_max_position_embeddings
    wavelengths = 2 * math.pi / frequencies
    scaled = frequencies / scaling.factor
    ramp = (original / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    between = (1 - ramp) * scaled + ramp * frequencies
    is_low = wavelengths > original / scaling.low_freq_factor
    is_high = wavelengths < original / scaling.high_freq_factor
    return torch.where(is_low, scaled, torch.where(is_high, frequencies, between))


def _yarn(frequencies: Tensor, scaling: Yarn, config: ModelConfig) -> Tensor:
    low = _yarn_dimension(scaling.beta_fast or 32, scaling, config)
    high = _yarn_dimension(scaling.beta_slow or 1, scaling, config)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.num_turned - 1)
    steps = torch.arange(len(frequencies), dtype=torch.float) - low
    # Equal bounds would divide by zero; transformers' own guard.
    ramp = (steps / (high - low if high != low else 0.001)).clamp(0, 1)
    return frequencies / scaling.factor * ramp + frequencies * (1 - ramp)


def _yarn_dimension(num_rotations: float, scaling: Yarn, config: ModelConfig) -> float:
    """The dimension that turns `num_rotations` times within the original context length."""
    turns = scaling.original_max_position_embeddings / (num_rotations * 2 * math.pi)
    return config.num_turned * math.log(turns) / (2 * math.log(config.rope_theta))


def _yarn_magnitude(scaling: Yarn) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return _mscale(scaling.factor, scaling.mscale) / _mscale(
            scaling.factor, scaling.mscale_all_dim
        )
    return _mscale(scaling.factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _longrope_magnitude(scaling: LongRope, config: ModelConfig) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    original = scaling.original_max_position_embeddings
    factor = scaling.factor or config.context_length / original
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
