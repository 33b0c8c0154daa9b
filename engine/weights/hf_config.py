"""A model's configuration from config.json and its neighbours. Knows no other format.

Torch-free.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from engine.config import Activation, ModelConfig
from engine.errors import LoadError
from engine.json_file import read_json
from engine.models.registry import check_architecture, decoder_of
from engine.weights.family import hf_keys
from engine.weights.hf_keys import ACTIVATIONS, HfKeys
from engine.weights.hf_tokens import read_eos_ids
from engine.weights.prequantised.config import read_method
from engine.weights.rope_scaling import Yarn, load_rope_scaling, parse_rope_scaling
from engine.weights.safetensors_header import stored_dtype


class _Family(msgspec.Struct, frozen=True):
    architectures: Annotated[list[str], msgspec.Meta(min_length=1)]


def read_hf_config(directory: Path, weights: Sequence[Path]) -> ModelConfig:
    """Read `directory`'s config.json; the stored dtype comes from the weights themselves.

    Raises LoadError naming the key that is missing, nonsensical or asks for what is not supported.
    """
    path = directory / "config.json"
    # First of all: another family may lack the keys that these ones have.
    check_architecture(architecture := decoder_of(read_json(path, _Family).architectures[0]))
    keys = _read_keys(path, hf_keys(architecture))
    is_quantised = read_method(directory) is not None
    _check_rope(keys, rope := _asked(keys.rope, path), path)
    rope_scaling = parse_rope_scaling(rope, str(path))
    head_dim = _head_dim(keys, path)
    common = {
        "vocab_size": keys.vocab_size,
        "hidden_size": keys.hidden_size,
        "intermediate_size": keys.intermediate_size,
        "num_layers": keys.num_hidden_layers,
        "num_heads": keys.num_attention_heads,
        "num_kv_heads": keys.num_key_value_heads or keys.num_attention_heads,
        "head_dim": head_dim,
        "context_length": _context_length(keys, rope_scaling),
        "activation": _activation(keys, path),
        "rotary_dim": _rotary_dim(rope, head_dim),
        "rope_theta": float(rope["rope_theta"]),
        "rope_scaling": rope_scaling,
        "tie_word_embeddings": keys.tie_word_embeddings,
        "eos_token_ids": read_eos_ids(directory, keys.eos_token_id),
        "bos_token_id": keys.bos_token_id,
        "dtype": stored_dtype(weights, is_quantised=is_quantised),
    }
    return ModelConfig(architecture=architecture, **{**common, **_asked(keys.fields, path)})


def _read_keys(path: Path, kind: type[HfKeys]) -> HfKeys:
    """A section has the language model's keys; what is said of the whole model goes before it."""
    if not kind.section:
        return read_json(path, kind)
    whole = read_json(path, dict[str, Any])
    section = whole.get(kind.section)
    if not isinstance(section, dict):
        raise LoadError(f"{path} cannot be used: it has no object `{kind.section}`.")
    values = {**section, **{key: value for key, value in whole.items() if value is not None}}
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise LoadError(f"{path} cannot be used: {error}, of {kind.section}.") from error


def _asked(answer: Callable[[], dict[str, Any]], path: Path) -> dict[str, Any]:
    """What the family's keys say; their errors do not name the file."""
    try:
        return answer()
    except LoadError as error:
        raise LoadError(f"{path}: {error}.") from error


def _activation(keys: HfKeys, path: Path) -> Activation:
    name = keys.activation()
    if name not in ACTIVATIONS:
        raise LoadError(
            f"{path}: the activation {name!r} is not supported; supported are "
            f"{', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[name]


def _head_dim(keys: HfKeys, path: Path) -> int:
    if keys.head_dim is not None:
        return keys.head_dim
    if keys.hidden_size % keys.num_attention_heads:
        raise LoadError(
            f"{path}: hidden_size {keys.hidden_size} is no multiple of num_attention_heads "
            f"{keys.num_attention_heads}, and there is no head_dim."
        )
    return keys.hidden_size // keys.num_attention_heads


def _check_rope(keys: HfKeys, rope: dict[str, Any], path: Path) -> None:
    if any(isinstance(value, dict) for value in rope.values()):
        raise LoadError(f"{path}: rope parameters that differ by layer are not supported.")
    if not isinstance(theta := rope["rope_theta"], int | float) or theta <= 0:
        raise LoadError(f"{path}: rope_theta must be a positive number, not {theta!r}.")
    share = rope["partial_rotary_factor"]
    if share in (None, 1):
        return
    if not keys.has_partial_rotary:
        raise LoadError(f"{path}: partial_rotary_factor other than 1 is not supported.")
    if not isinstance(share, float) or not 0 < share < 1:
        raise LoadError(f"{path}: partial_rotary_factor must be in (0, 1], not {share!r}.")


def _rotary_dim(rope: dict[str, Any], head_dim: int) -> int:
    return int(head_dim * (rope["partial_rotary_factor"] or 1))


def _context_length(keys: HfKeys, rope_scaling: dict[str, Any] | None) -> int:
    """With YaRN, max_position_embeddings is often the length before stretching (Qwen2.5)."""
    scaling = load_rope_scaling(rope_scaling)
    if isinstance(scaling, Yarn):
        stretched = int(scaling.factor * scaling.original_max_position_embeddings)
        return max(stretched, keys.max_position_embeddings)
    return keys.max_position_embeddings
