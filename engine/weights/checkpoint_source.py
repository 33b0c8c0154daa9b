"""A Hugging Face checkpoint as the source of a GGUF file: llama.cpp's names, keys and row order.

Families are those of Llama's kind, whose tensors go over one to one.
"""

import math
from collections.abc import Iterator
from typing import Any

import msgspec
from gguf.constants import GGMLQuantizationType as Type, GGUFValueType
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.layers.rotary import rope_frequencies
from engine.text.gguf_vocabulary import gguf_vocabulary
from engine.weights.checkpoint import Checkpoint, open_checkpoint
from engine.weights.files import ModelFiles
from engine.weights.gguf_mixture import ModelFacts
from engine.weights.gguf_source import MetadataValue, SourceTensor
from engine.weights.names import gguf_name
from engine.weights.rope_scaling import Linear, Yarn, load_rope_scaling

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_ROPE_FREQS = "rope_freqs.weight"


class CheckpointSource:
    """`files` must be safetensors of one of ARCHITECTURES. Raises LoadError for others."""

    def __init__(self, files: ModelFiles) -> None:
        self._files = files
        self._checkpoint: Checkpoint = open_checkpoint(files)
        self._config: ModelConfig = self._checkpoint.config
        _check(self._config, files.name)
        self.architecture = ARCHITECTURES[self._config.architecture]
        self._names = _gguf_names(self._checkpoint, files.name)
        config = self._config
        self.facts = ModelFacts(
            architecture=self.architecture,
            num_layers=config.num_layers,
            group=config.num_heads // config.num_kv_heads,
            num_experts=0,
            is_tied=config.tie_word_embeddings,
        )

    def metadata(self) -> dict[str, MetadataValue]:
        """The shape, the rotary positions, the tokenizer and the chat template."""
        config = self._config
        tokenizer = self._files.tokenizer or self._files.directory
        vocabulary = gguf_vocabulary(tokenizer, config.vocab_size, config.eos_token_ids)
        shape = {f"{self.architecture}.{key}": value for key, value in _keys(config).items()}
        values: dict[str, Any] = {"general.name": self._files.name, **shape, **vocabulary}
        return {key: _typed(value) for key, value in values.items()}

    def tensors(self) -> list[SourceTensor]:
        """Those before the layers, then layer by layer, then the others; norms in float32."""
        tensors = [
            SourceTensor(name, self._checkpoint.shape(hf), Type.F32)
            for name, hf in self._names.items()
        ]
        if self._divisors() is not None:
            tensors.insert(0, SourceTensor(_ROPE_FREQS, (self._config.num_turned // 2,), Type.F32))
        return tensors

    def pieces(self, name: str) -> Iterator[Tensor]:
        """In the dtype that the files store."""
        if name == _ROPE_FREQS:
            divisors = self._divisors()
            assert divisors is not None
            return iter((divisors,))
        hf = self._names[name]
        if self.architecture == "llama" and ".self_attn.q_proj." in hf:
            return iter((_pairs(self._checkpoint.tensor(hf), self._config.num_heads),))
        if self.architecture == "llama" and ".self_attn.k_proj." in hf:
            return iter((_pairs(self._checkpoint.tensor(hf), self._config.num_kv_heads),))
        return self._checkpoint.pieces(hf)

    def stored(self, name: str) -> None:
        """None: files of another kind."""

    def _divisors(self) -> Tensor | None:
        """What llama.cpp divides frequencies by, where they are scaled one by one (Llama 3)."""
        config = self._config
        if isinstance(load_rope_scaling(config.rope_scaling), Linear | Yarn | None):
            return None
        plain, _ = rope_frequencies(msgspec.structs.replace(config, rope_scaling=None))
        return plain / rope_frequencies(config)[0]


def _check(config: ModelConfig, name: str) -> None:
    if config.architecture not in ARCHITECTURES:
        raise LoadError(
            f"{name} is a {config.architecture}, which cannot be written as GGUF here, only "
            f"{', '.join(ARCHITECTURES)}; convert it with llama.cpp's convert_hf_to_gguf.py and "
            "quantise that file."
        )
    if not config.is_causal:
        raise LoadError(
            f"{name} looks both ways, which a GGUF file of a {config.architecture} cannot say; "
            "serve its safetensors."
        )
    if len(set(config.windows)) > 1:
        raise LoadError(
            f"{name} has layers with a window beside layers without, which a GGUF file of a "
            f"{config.architecture} cannot say; serve its safetensors."
        )
    scaling = load_rope_scaling(config.rope_scaling)
    if isinstance(scaling, Yarn) and (scaling.mscale is not None or not scaling.truncate):
        raise LoadError(
            f"{name} has YaRN with mscale or without truncation, which a GGUF file cannot say; "
            "serve its safetensors."
        )


def _gguf_names(checkpoint: Checkpoint, name: str) -> dict[str, str]:
    """GGUF names to Hugging Face's, in the order in which llama.cpp's converter writes them."""
    skipped = {"lm_head.weight"} if checkpoint.config.tie_word_embeddings else set()
    skipped |= {n for n in checkpoint.names() if n.endswith(".rotary_emb.inv_freq")}
    names = {gguf_name(hf): hf for hf in sorted(checkpoint.names() - skipped)}
    if None in names:
        raise LoadError(
            f"{name} has a tensor {names[None]} that GGUF has no name for; it is a variant that is "
            "not supported."
        )
    found = {gguf: hf for gguf, hf in names.items() if gguf is not None}
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def _order(name: str) -> tuple[int, str]:
    parts = name.split(".")
    return (int(parts[1]), name) if parts[0] == "blk" else (-1, name)


def _keys(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.norm_eps),
        **({"attention.sliding_window": config.window(0)} if config.window(0) else {}),
        "rope.dimension_count": config.num_turned,
        "rope.freq_base": float(config.rope_theta),
        **_scaling_keys(config),
    }


def _scaling_keys(config: ModelConfig) -> dict[str, Any]:
    match load_rope_scaling(config.rope_scaling):
        case Linear(factor):
            return {"rope.scaling.type": "linear", "rope.scaling.factor": float(factor)}
        case Yarn() as yarn:
            original = int(yarn.original_max_position_embeddings)
            keys: dict[str, Any] = {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": float(yarn.factor),
                "rope.scaling.original_context_length": original,
                "rope.scaling.yarn_beta_fast": yarn.beta_fast,
                "rope.scaling.yarn_beta_slow": yarn.beta_slow,
            }
            if yarn.attention_factor is not None:
                usual = 0.1 * math.log(max(yarn.factor, 1.0)) + 1.0
                keys["rope.scaling.attn_factor"] = yarn.attention_factor / usual
            return {key: value for key, value in keys.items() if value is not None}
    return {}


def _typed(value: Any) -> MetadataValue:
    match value:
        case bool():
            return MetadataValue(value, GGUFValueType.BOOL)
        case int():
            return MetadataValue(value, GGUFValueType.UINT32)
        case float():
            return MetadataValue(value, GGUFValueType.FLOAT32)
        case list():
            kind = GGUFValueType.STRING if isinstance(value[0], str) else GGUFValueType.INT32
            return MetadataValue(value, GGUFValueType.ARRAY, kind)
    return MetadataValue(value, GGUFValueType.STRING)


def _pairs(rows: Tensor, num_heads: int) -> Tensor:
    """Rows of each head from two halves to adjacent pairs, the order of Meta's own rotary."""
    halves = rows.reshape(num_heads, 2, -1, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)
