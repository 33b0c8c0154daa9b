"""The keys of an encoder's config.json, family by family, and the shape they give. Torch-free."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from engine.encoders.config import EncoderConfig
from engine.encoders.families import ENCODERS
from engine.errors import LoadError
from engine.json_file import read_json
from engine.weights.bounds import LayerCount
from engine.weights.files import ModelFiles
from engine.weights.hf_keys import ACTIVATIONS, Count, Positive, windows_of
from engine.weights.safetensors_header import stored_dtype


class EncoderKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What all have in common, with transformers' defaults. BERT has no more.

    `names` are other names that the family's files have for some: theirs -> ours.
    """

    names: ClassVar[Mapping[str, str]] = {}

    vocab_size: Count
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: LayerCount
    num_attention_heads: Count
    max_position_embeddings: Count
    hidden_act: str = "gelu"
    layer_norm_eps: Positive = 1e-12
    type_vocab_size: int = 2
    pad_token_id: int | None = 0
    position_embedding_type: str | None = None
    is_decoder: bool = False

    def activation_name(self) -> str:
        """What the file calls the feed-forward block's activation."""
        return self.hidden_act

    def fields(self) -> dict[str, Any]:
        """Learned positions from row 0, token types, biases everywhere, norms behind the sums."""
        if self.position_embedding_type not in (None, "absolute") or self.is_decoder:
            raise LoadError("relative positions and is_decoder are not supported")
        return {
            "context_length": self.max_position_embeddings,
            "num_positions": self.max_position_embeddings,
            "num_types": self.type_vocab_size,
            "norm_eps": self.layer_norm_eps,
            "attention_bias": True,
            "attention_output_bias": True,
            "mlp_bias": True,
        }


class RobertaKeys(EncoderKeys, frozen=True, kw_only=True):
    """The first rows of the table of positions, up to that of padding, are no text's."""

    layer_norm_eps: Positive = 1e-5
    pad_token_id: int | None = 1

    def fields(self) -> dict[str, Any]:
        """BERT's, with fewer positions than rows."""
        offset = (self.pad_token_id or 0) + 1
        if offset >= self.max_position_embeddings:
            raise LoadError("max_position_embeddings leaves no position behind pad_token_id")
        length = self.max_position_embeddings - offset
        return {**super().fields(), "context_length": length, "position_offset": offset}


class DistilBertKeys(EncoderKeys, frozen=True, kw_only=True):
    """BERT without token types, under names of its own."""

    names: ClassVar[Mapping[str, str]] = {
        "dim": "hidden_size",
        "hidden_dim": "intermediate_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
    }

    activation: str = "gelu"

    def activation_name(self) -> str:
        """It has a name of its own too."""
        return self.activation

    def fields(self) -> dict[str, Any]:
        """BERT's."""
        return {**super().fields(), "num_types": 0}


class ModernBertKeys(EncoderKeys, frozen=True, kw_only=True):
    """Rotary positions, most layers with a window, norms before the blocks, no biases."""

    hidden_activation: str = "gelu"
    norm_eps: Positive = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    local_attention: Count = 128
    global_attn_every_n_layers: Count = 3
    global_rope_theta: Positive = 160_000.0
    local_rope_theta: Positive | None = 10_000.0
    layer_types: list[str] | None = None
    rope_parameters: dict[str, Any] | None = None  # transformers 5: by type of layer

    def activation_name(self) -> str:
        """It has a name of its own."""
        return self.hidden_activation

    def fields(self) -> dict[str, Any]:
        """Layers of two kinds, each with its rotary positions."""
        full, local = self._theta("full_attention"), self._theta("sliding_attention")
        return {
            "context_length": self.max_position_embeddings,
            "norm_eps": self.norm_eps,
            "has_norm_bias": self.norm_bias,
            "attention_bias": self.attention_bias,
            "attention_output_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "rope_theta": full or self.global_rope_theta,
            "local_rope_theta": local or self.local_rope_theta or self.global_rope_theta,
            "windows": self._windows(),
            "is_pre_norm": True,
            "is_gated": True,
        }

    def _windows(self) -> tuple[int, ...]:
        types = self.layer_types or [
            "sliding_attention" if layer % self.global_attn_every_n_layers else "full_attention"
            for layer in range(self.num_hidden_layers)
        ]
        return windows_of(types, self.num_hidden_layers, self.local_attention // 2)

    def _theta(self, kind: str) -> float | None:
        return _theta((self.rope_parameters or {}).get(kind))


class NomicBertKeys(EncoderKeys, frozen=True, kw_only=True):
    """BERT with rotary positions and a gated block, without biases but for the norms'.

    transformers' own keys, or those of the files as they were published.
    """

    names: ClassVar[Mapping[str, str]] = {
        "n_embd": "hidden_size",
        "n_inner": "intermediate_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
        "layer_norm_epsilon": "layer_norm_eps",
        "activation_function": "hidden_act",
    }
    hidden_act: str = "silu"
    rope_parameters: dict[str, Any] | None = None
    rotary_emb_base: Positive = 1000.0
    rotary_emb_fraction: float = 1.0
    rotary_scaling_factor: float | None = None
    max_trained_positions: Count | None = None
    qkv_proj_bias: bool = False
    mlp_fc1_bias: bool = False
    mlp_fc2_bias: bool = False
    prenorm: bool = False

    def activation_name(self) -> str:
        """The published files name the gated pair."""
        return {"swiglu": "silu", "geglu": "gelu"}.get(self.hidden_act, self.hidden_act)

    def fields(self) -> dict[str, Any]:
        """The variant of nomic-embed-text."""
        if self.rotary_emb_fraction != 1.0 or self.prenorm:
            raise LoadError("rotary_emb_fraction other than 1 and prenorm are not supported")
        if self.qkv_proj_bias or self.mlp_fc1_bias or self.mlp_fc2_bias:
            raise LoadError("biases in NomicBert's projections are not supported")
        return {
            "context_length": self._length(),
            "num_types": self.type_vocab_size,
            "norm_eps": self.layer_norm_eps,
            "rope_theta": _theta(self.rope_parameters) or self.rotary_emb_base,
            "is_gated": True,
        }

    def _length(self) -> int:
        """The scaling of rotary positions, which is not made here, begins behind the trained."""
        if self.rotary_scaling_factor is None or self.max_trained_positions is None:
            return self.max_position_embeddings
        return min(self.max_position_embeddings, self.max_trained_positions)


_KEYS: dict[str, type[EncoderKeys]] = {
    "Bert": EncoderKeys,
    "Camembert": RobertaKeys,
    "DistilBert": DistilBertKeys,
    "ModernBert": ModernBertKeys,
    "NomicBert": NomicBertKeys,
    "Roberta": RobertaKeys,
    "XLMRoberta": RobertaKeys,
}


def _theta(rope: Any) -> float | None:
    """The base of rotary positions; None where the file does not say."""
    if rope is None:
        return None
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise LoadError("rotary positions that are scaled are not supported")
    theta = rope.get("rope_theta")
    if theta is not None and (not isinstance(theta, int | float) or theta <= 0):
        raise LoadError(f"rope_theta must be a positive number, not {theta!r}")
    return theta


def read_encoder_config(files: ModelFiles, architecture: str) -> EncoderConfig:
    """Read config.json of an architecture of `ENCODERS`.

    Raises LoadError naming the key that is missing, nonsensical or asks for what is not supported.
    """
    path = files.directory / "config.json"
    keys = _read_keys(path, _KEYS[ENCODERS[architecture]])
    if (activation := keys.activation_name()) not in ACTIVATIONS:
        raise LoadError(
            f"{path}: the activation {activation!r} is not supported; supported are "
            f"{', '.join(ACTIVATIONS)}."
        )
    fields = _fields(keys, path)
    return EncoderConfig(
        architecture=architecture,
        vocab_size=keys.vocab_size,
        hidden_size=keys.hidden_size,
        intermediate_size=keys.intermediate_size,
        num_layers=keys.num_hidden_layers,
        num_heads=keys.num_attention_heads,
        num_kv_heads=keys.num_attention_heads,
        head_dim=_head_dim(keys, path),
        norm="layer",
        activation=ACTIVATIONS[activation],
        dtype=stored_dtype(files.weights, is_quantised=False),
        **fields,
    )


def _read_keys(path: Path, kind: type[EncoderKeys]) -> EncoderKeys:
    stored = read_json(path, dict[str, Any])
    values = {kind.names.get(key, key): value for key, value in stored.items()}
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise LoadError(f"{path} cannot be used: {error}. Download it again.") from error


def _fields(keys: EncoderKeys, path: Path) -> dict[str, Any]:
    try:
        return keys.fields()
    except LoadError as error:
        raise LoadError(f"{path}: {error}.") from error


def _head_dim(keys: EncoderKeys, path: Path) -> int:
    size, rest = divmod(keys.hidden_size, keys.num_attention_heads)
    if rest or size % 2:
        raise LoadError(
            f"{path}: hidden_size {keys.hidden_size} is no even multiple of num_attention_heads "
            f"{keys.num_attention_heads}."
        )
    return size
