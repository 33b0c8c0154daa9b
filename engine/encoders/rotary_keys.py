"""The keys of config.json of encoders with rotary positions. Torch-free."""

from collections.abc import Mapping
from typing import Any, ClassVar

from engine.encoders.keys import EncoderKeys
from engine.errors import LoadError
from engine.weights.hf_keys import Count, Positive, windows_of
from engine.weights.rope_scaling import Linear, dump_rope_scaling


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
        return theta_of((self.rope_parameters or {}).get(kind))


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
    rotary_emb_interleaved: bool = False
    use_rms_norm: bool = False

    def activation_name(self) -> str:
        """The published files name the gated pair."""
        return {"swiglu": "silu", "geglu": "gelu"}.get(self.hidden_act, self.hidden_act)

    def fields(self) -> dict[str, Any]:
        """The variant of nomic-embed-text."""
        if self.rotary_emb_fraction != 1.0 or self.rotary_emb_interleaved:
            raise LoadError("rotary_emb_fraction other than 1 and interleaved are not supported")
        if self.prenorm or self.use_rms_norm:
            raise LoadError("prenorm and use_rms_norm are not supported")
        if self.qkv_proj_bias or self.mlp_fc1_bias or self.mlp_fc2_bias:
            raise LoadError("biases in NomicBert's projections are not supported")
        return {
            "context_length": self._length(),
            "num_types": self.type_vocab_size,
            "norm_eps": self.layer_norm_eps,
            "rope_theta": theta_of(self.rope_parameters) or self.rotary_emb_base,
            "is_gated": True,
        }

    def _length(self) -> int:
        """The scaling of rotary positions, which is not made here, begins behind the trained."""
        if self.rotary_scaling_factor is None or self.max_trained_positions is None:
            return self.max_position_embeddings
        return min(self.max_position_embeddings, self.max_trained_positions)


class GteKeys(EncoderKeys, frozen=True, kw_only=True):
    """BERT with rotary positions and a gated block whose first half has no bias (GTE v1.5, mGTE).

    transformers' own keys, or those of the files as they were published.
    """

    type_vocab_size: int = 1
    rope_parameters: dict[str, Any] | None = None
    rope_theta: Positive | None = None
    rope_scaling: dict[str, Any] | None = None
    logn_attention_scale: bool = False
    pack_qkv: bool = True
    layer_norm_type: str = "layer_norm"

    def fields(self) -> dict[str, Any]:
        """The variant of the published files."""
        if self.position_embedding_type not in (None, "rope") or self.logn_attention_scale:
            raise LoadError("positions other than rope and logn_attention_scale are not supported")
        if not self.pack_qkv or self.layer_norm_type != "layer_norm":
            raise LoadError("pack_qkv false and layer_norm_type of another kind are not supported")
        return {
            "context_length": self.max_position_embeddings,
            "num_types": self.type_vocab_size,
            "norm_eps": self.layer_norm_eps,
            "attention_bias": True,
            "attention_output_bias": True,
            "mlp_bias": True,
            "has_up_bias": False,
            "is_gated": True,
            **self._rope(),
        }

    def _rope(self) -> dict[str, Any]:
        """NTK's fixed scaling stretches the base and all frequencies (kexue.fm/archives/9706)."""
        theta = self.rope_theta or theta_of(self.rope_parameters) or 160_000.0
        scaling = self.rope_scaling
        if scaling is None:
            return {"rope_theta": theta}
        kind, factor = scaling.get("type", scaling.get("rope_type")), scaling.get("factor")
        if kind != "ntk" or not isinstance(factor, int | float) or factor < 1:
            raise LoadError(f"rope_scaling must be of type ntk with a factor, not {scaling}")
        if scaling.get("mixed_b") is not None:
            raise LoadError("rope_scaling with mixed_b is not supported")
        head_dim = self.hidden_size // self.num_attention_heads
        linear = dump_rope_scaling(Linear(factor ** (2 / head_dim)))
        return {"rope_theta": theta * factor, "rope_scaling": linear}


def theta_of(rope: Any) -> float | None:
    """The base of rotary positions; None where the file does not say."""
    if rope is None:
        return None
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise LoadError("rotary positions that are scaled are not supported")
    theta = rope.get("rope_theta")
    if theta is not None and (not isinstance(theta, int | float) or theta <= 0):
        raise LoadError(f"rope_theta must be a positive number, not {theta!r}")
    return theta
