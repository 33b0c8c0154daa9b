"""Models of real shapes with random weights, made where they are used: no file, nothing copied.

A weight is a function of its name, so that a model of transformers can have the same ones.
"""

from collections.abc import Iterator
from typing import Any
from zlib import crc32

import msgspec
import torch
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize
from torch import Tensor

from engine.config import ModelConfig
from engine.weights.checkpoint import PackedTensor
from kernels.packing import PIECE_ROWS

_LLAMA = ModelConfig(
    architecture="LlamaForCausalLM",
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    context_length=8192,
    rope_theta=500000.0,
    dtype="bfloat16",
)
_QWEN = ModelConfig(
    architecture="Qwen3ForCausalLM",
    vocab_size=151936,
    hidden_size=1024,
    intermediate_size=3072,
    num_layers=28,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    context_length=40960,
    norm_eps=1e-6,
    qk_norm="head",
    tie_word_embeddings=True,
    rope_theta=1000000.0,
    dtype="bfloat16",
)
SHAPES = {"llama-3-8b": _LLAMA, "qwen3-0.6b": _QWEN}
_TINY = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 64,
    "context_length": 512,
}
# Offset and value of each float16 scale of a block, such that weights are about 0.02.
_SCALES = {Type.Q8_0: {0: 2.7e-4}, Type.Q4_K: {0: 1.4e-4, 2: 1.05e-3}}
KINDS: dict[str, Type | None] = {"bf16": None, "Q8_0": Type.Q8_0, "Q4_K": Type.Q4_K}
_DEVIATION = 0.02
_PIECE_ROWS = 256 * PIECE_ROWS


def shape_of(name: str, *, is_tiny: bool, **changes: Any) -> ModelConfig:
    """A model's shape, or a small one of the same family."""
    return msgspec.structs.replace(SHAPES[name], **({**_TINY, **changes} if is_tiny else changes))


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of Llama and Qwen3, by Hugging Face's names."""
    hidden, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    query, key = (num * config.head_dim for num in (config.num_heads, config.num_kv_heads))
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(config.num_layers):
        parts = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (query, hidden),
            "self_attn.k_proj": (key, hidden),
            "self_attn.v_proj": (key, hidden),
            "self_attn.o_proj": (hidden, query),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        if config.qk_norm:
            norms = {"self_attn.q_norm": (config.head_dim,), "self_attn.k_norm": (config.head_dim,)}
            parts |= norms
        found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in parts.items()}
    found["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        found["lm_head.weight"] = (vocab, hidden)
    return found


class RandomCheckpoint:
    """A `Checkpoint` whose tensors lie on `device`; matrices are of `kind`, None for bfloat16."""

    def __init__(self, config: ModelConfig, kind: Type | None, device: torch.device) -> None:
        self._config = config
        self._kind = kind
        self._device = device
        self._shapes = shapes(config)

    @property
    def config(self) -> ModelConfig:
        """As given."""
        return self._config

    def names(self) -> frozenset[str]:
        """Of all tensors."""
        return frozenset(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's."""
        return self._shapes[name]

    def tensor(self, name: str) -> Tensor:
        """In bfloat16; what is packed, unpacked by gguf-py in float32."""
        shape = self.shape(name)
        if self._kind is not None and len(shape) == 2:
            rows = torch.cat(list(self._blocks(name, self._kind))).cpu().numpy()
            return torch.from_numpy(dequantize(rows, self._kind)).to(self._device)
        noise = torch.randn(shape, generator=self._generator(name), **self._bfloat16)
        return noise * 0.1 + 1 if len(shape) == 1 else noise * _DEVIATION

    def pieces(self, name: str) -> Iterator[Tensor]:
        """All of it at once."""
        yield self.tensor(name)

    def packed(self, name: str) -> PackedTensor | None:
        """A matrix in its kind's blocks, unless it is in bfloat16."""
        shape = self.shape(name)
        if self._kind is None or len(shape) != 2:
            return None
        return PackedTensor(int(self._kind), shape, self._blocks(name, self._kind))

    def _blocks(self, name: str, kind: Type) -> Iterator[Tensor]:
        num_rows, num_columns = self.shape(name)
        num_weights, num_bytes = GGML_QUANT_SIZES[kind]
        generator = self._generator(name)
        for start in range(0, num_rows, _PIECE_ROWS):
            count = min(_PIECE_ROWS, num_rows - start)
            shape = (count * num_columns // num_weights, num_bytes)
            given: dict[str, Any] = {"generator": generator, "device": self._device}
            blocks = torch.randint(256, shape, dtype=torch.uint8, **given)
            for offset, scale in _SCALES[kind].items():
                factors = 0.8 + 0.4 * torch.rand(shape[0], 1, **given)
                blocks[:, offset : offset + 2] = (scale * factors).half().view(torch.uint8)
            yield blocks.view(count, -1)

    @property
    def _bfloat16(self) -> dict[str, Any]:
        return {"dtype": torch.bfloat16, "device": self._device}

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator(self._device).manual_seed(crc32(name.encode()))


def kv_bytes(config: ModelConfig, num_tokens: int, itemsize: int) -> int:
    """Keys and values of some tokens in all layers."""
    row = config.num_kv_heads * config.head_dim * itemsize
    return 2 * config.num_layers * row * num_tokens
