"""A model's configuration from config.json and its neighbours. Knows no other format.

Torch-free.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.json_file import read_json
from engine.models.registry import check_architecture
from engine.weights.hf_tokens import read_eos_ids
from engine.weights.rope_scaling import Yarn, load_rope_scaling, parse_rope_scaling
from engine.weights.safetensors_header import stored_dtype

Count = Annotated[int, msgspec.Meta(gt=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]

# What transformers' classes hold without a key in config.json.
_QKV_BIAS = frozenset({"Qwen2ForCausalLM"})
_QK_NORM = frozenset({"Qwen3ForCausalLM"})
_WINDOW_SWITCH = frozenset({"Qwen2ForCausalLM", "Qwen3ForCausalLM"})
_NO_WINDOW = frozenset({"LlamaForCausalLM"})
_DEFAULT_WINDOW = 4096
_DEFAULT_MAX_WINDOW_LAYERS = 28


class _Family(msgspec.Struct, frozen=True):
    architectures: Annotated[list[str], msgspec.Meta(min_length=1)]


class HfConfig(_Family, frozen=True):
    """The keys of config.json that these families read, with transformers' defaults."""

    vocab_size: Count
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    max_position_embeddings: Count
    rms_norm_eps: Positive
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    hidden_act: str = "silu"
    rope_theta: Positive = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # transformers 5: rope_theta and scaling in one
    original_max_position_embeddings: Count | None = None
    partial_rotary_factor: float | None = None
    sliding_window: Count | UnsetType | None = UNSET
    use_sliding_window: bool = False
    max_window_layers: int = _DEFAULT_MAX_WINDOW_LAYERS
    layer_types: list[str] | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    quantization_config: dict[str, Any] | None = None
    eos_token_id: int | list[int] | None = None
    bos_token_id: int | None = None


def read_hf_config(directory: Path, weights: Sequence[Path]) -> ModelConfig:
    """Read `directory`'s config.json; the stored dtype comes from the weights themselves.

    Raises LoadError naming the key that is missing, nonsensical or asks for what is not supported.
    """
    path = directory / "config.json"
    # First of all: another family may lack the keys that these ones have.
    check_architecture(architecture := read_json(path, _Family).architectures[0])
    config = read_json(path, HfConfig)
    _check_supported(config, path)
    _check_rope(rope := _rope_values(config), path)
    rope_scaling = parse_rope_scaling(rope, str(path))
    window, first_window_layer = _window(config, path)
    return ModelConfig(
        architecture=architecture,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=_head_dim(config, path),
        context_length=_context_length(config, rope_scaling),
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=float(rope["rope_theta"]),
        rope_scaling=rope_scaling,
        sliding_window=window,
        first_window_layer=first_window_layer,
        tie_word_embeddings=config.tie_word_embeddings,
        attention_bias=config.attention_bias or architecture in _QKV_BIAS,
        attention_output_bias=config.attention_bias and architecture not in _QKV_BIAS,
        mlp_bias=config.mlp_bias,
        qk_norm=architecture in _QK_NORM,
        eos_token_ids=read_eos_ids(directory, config.eos_token_id),
        bos_token_id=config.bos_token_id,
        dtype=stored_dtype(weights),
    )


def _check_supported(config: HfConfig, path: Path) -> None:
    if config.hidden_act != "silu":
        raise LoadError(f"{path}: hidden_act {config.hidden_act!r} is not supported, only silu.")
    if config.quantization_config is not None:
        method = config.quantization_config.get("quant_method", "unknown")
        raise LoadError(
            f"{path}: weights quantised with {method} are not supported; use the model's "
            "unquantised weights or a GGUF file."
        )


def _head_dim(config: HfConfig, path: Path) -> int:
    if config.head_dim is not None:
        return config.head_dim
    if config.hidden_size % config.num_attention_heads:
        raise LoadError(
            f"{path}: hidden_size {config.hidden_size} is no multiple of num_attention_heads "
            f"{config.num_attention_heads}, and there is no head_dim."
        )
    return config.hidden_size // config.num_attention_heads


def _rope_values(config: HfConfig) -> dict[str, Any]:
    """Rope parameters in one dict, whichever way transformers wrote them."""
    values = {
        "rope_theta": config.rope_theta,
        "partial_rotary_factor": config.partial_rotary_factor,
        "original_max_position_embeddings": config.max_position_embeddings,
        **(config.rope_scaling or config.rope_parameters or {}),
    }
    if config.original_max_position_embeddings is not None:
        values["original_max_position_embeddings"] = config.original_max_position_embeddings
    return values


def _check_rope(rope: dict[str, Any], path: Path) -> None:
    if any(isinstance(value, dict) for value in rope.values()):
        raise LoadError(f"{path}: rope parameters that differ by layer are not supported.")
    if not isinstance(theta := rope["rope_theta"], int | float) or theta <= 0:
        raise LoadError(f"{path}: rope_theta must be a positive number, not {theta!r}.")
    if rope["partial_rotary_factor"] not in (None, 1):
        raise LoadError(f"{path}: partial_rotary_factor other than 1 is not supported.")


def _context_length(config: HfConfig, rope_scaling: dict[str, Any] | None) -> int:
    """With YaRN, max_position_embeddings is often the length before stretching (Qwen2.5)."""
    scaling = load_rope_scaling(rope_scaling)
    if isinstance(scaling, Yarn):
        stretched = int(scaling.factor * scaling.original_max_position_embeddings)
        return max(stretched, config.max_position_embeddings)
    return config.max_position_embeddings


def _window(config: HfConfig, path: Path) -> tuple[int | None, int]:
    """The sliding window, None for none, and the first layer that has it."""
    architecture = config.architectures[0]
    if architecture in _NO_WINDOW:
        return None, 0
    window = _DEFAULT_WINDOW if config.sliding_window is UNSET else config.sliding_window
    if architecture not in _WINDOW_SWITCH:
        return window, 0
    if not config.use_sliding_window or window is None:
        return None, 0
    return window, _first_window_layer(config, path)


def _first_window_layer(config: HfConfig, path: Path) -> int:
    if config.layer_types is None:
        return max(config.max_window_layers, 0)
    first = config.layer_types.count("full_attention")
    rest = config.num_hidden_layers - first
    if config.layer_types != ["full_attention"] * first + ["sliding_attention"] * rest:
        raise LoadError(
            f"{path}: layer_types must be full_attention layers followed by sliding_attention ones."
        )
    return first
