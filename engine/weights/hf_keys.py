"""The keys of config.json that families have in common, and what they say. Torch-free.

A family with more keys, or other defaults, has a subclass in weights/families/.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec

from engine.config import Activation
from engine.errors import LoadError
from engine.weights.bounds import LayerCount

Count = Annotated[int, msgspec.Meta(gt=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


class HfKeys(msgspec.Struct, frozen=True, kw_only=True):
    """config.json with transformers' defaults; a wrong type or a missing key is an error."""

    has_partial_rotary: ClassVar[bool] = False
    section: ClassVar[str] = ""  # the object of config.json that has the keys; empty: the whole

    vocab_size: Count
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: LayerCount
    num_attention_heads: Count
    max_position_embeddings: Count
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    hidden_act: str = "silu"
    rope_theta: Positive = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # transformers 5: rope_theta and scaling in one
    original_max_position_embeddings: Count | None = None
    partial_rotary_factor: float | None = None
    tie_word_embeddings: bool = False
    eos_token_id: int | list[int] | None = None
    bos_token_id: int | None = None
    is_causal: bool | None = None
    use_bidirectional_attention: bool | str | None = None

    def looks_both_ways(self) -> bool:
        """Whether a token sees those behind it as well, as in some embedding models."""
        return self.is_causal is False or self.use_bidirectional_attention is True

    def side_of(self, window: int) -> int:
        """How many tokens such a one sees on each side, where layers have a window."""
        return window

    def fields(self) -> dict[str, Any]:
        """The fields of ModelConfig that are the family's own.

        Raises LoadError, without naming the file, for what is not supported.
        """
        return {}

    def activation(self) -> str:
        """The name of the activation in this file."""
        return self.hidden_act

    def rope(self) -> dict[str, Any]:
        """Rope parameters in one dict, whichever way transformers wrote them.

        Raises LoadError as `fields` does.
        """
        values = {
            "rope_theta": self.rope_theta,
            "partial_rotary_factor": self.partial_rotary_factor,
            "original_max_position_embeddings": self.max_position_embeddings,
            **(self.rope_scaling or self.rope_parameters or {}),
        }
        if self.original_max_position_embeddings is not None:
            values["original_max_position_embeddings"] = self.original_max_position_embeddings
        return values


class RmsNormKeys(HfKeys, frozen=True, kw_only=True):
    """A family of Llama's kind: RMS norms, and biases as the file says."""

    rms_norm_eps: Positive
    attention_bias: bool = False
    mlp_bias: bool = False

    def fields(self) -> dict[str, Any]:
        """Norms and biases."""
        return {
            "norm_eps": self.rms_norm_eps,
            "attention_bias": self.attention_bias,
            "attention_output_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
        }


def windows_of(layer_types: list[str], num_layers: int, window: int) -> tuple[int, ...]:
    """The windows of layers by their types in config.json. Raises LoadError."""
    kinds = {"full_attention": 0, "sliding_attention": window}
    if len(layer_types) != num_layers or not kinds.keys() >= set(layer_types):
        raise LoadError(
            f"layer_types must be {num_layers} of full_attention and sliding_attention, one a layer"
        )
    return tuple(kinds[kind] for kind in layer_types)
