"""The keys of config.json of encoders with learned positions. Torch-free.

`fields` gives what a family's shape has beside the common keys; it raises LoadError, without naming
the file, for what is not supported.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from engine.errors import LoadError
from engine.weights.bounds import LayerCount
from engine.weights.hf_keys import Count, Positive


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


class MPNetKeys(RobertaKeys, frozen=True, kw_only=True):
    """RoBERTa without token types, and a bias for each distance between two tokens."""

    layer_norm_eps: Positive = 1e-12
    relative_attention_num_buckets: int = 32

    def fields(self) -> dict[str, Any]:
        """RoBERTa's; transformers has 32 buckets whatever the file says."""
        if self.relative_attention_num_buckets != 32:
            raise LoadError("relative_attention_num_buckets other than 32 is not supported")
        return {**super().fields(), "num_types": 0, "num_buckets": 32}


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
