"""The shape of a Llama model in a GGML file. Torch-free.

The file does not say everything. Query heads per key-value head come from the user, as they do in
llama.cpp (`-gqa 8` for Llama 2 70B). The rest is settled here:

- RMS epsilon: 1e-5 with grouped heads, which only Llama 2 has; else 5e-6, llama.cpp's own
  compromise between Llama 1 (1e-6) and Llama 2 (1e-5).
- Context: 4096. That is Llama 2's; with Llama 1 keep to 2048 by `max_model_len`.
- Rotary base 10000, as all Llama models of that time.
"""

from pathlib import Path

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.weights.ggml_header import GgmlHeader, GgmlTensor, read_ggml

_CONTEXT_LENGTH = 4096
_LLAMA2_EPS, _ANY_LLAMA_EPS = 1e-5, 5e-6
_BOS_ID, _EOS_ID = 1, 2


def read_ggml_config(path: Path, gqa: int) -> ModelConfig:
    """The configuration; `gqa` is the query heads per key-value head. Raises LoadError."""
    return ggml_config(read_ggml(path), path, gqa)


def ggml_config(header: GgmlHeader, path: Path, gqa: int) -> ModelConfig:
    """The same from a header that is read already; `path` names the file in errors."""
    _check_heads(header, path, gqa)
    return ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=_tensor(header, path, "tok_embeddings.weight").shape[0],
        hidden_size=header.hidden_size,
        intermediate_size=_tensor(header, path, "layers.0.feed_forward.w1.weight").shape[0],
        num_layers=header.num_layers,
        num_heads=header.num_heads,
        num_kv_heads=header.num_heads // gqa,
        head_dim=header.hidden_size // header.num_heads,
        rotary_dim=header.hidden_size // header.num_heads,
        context_length=_CONTEXT_LENGTH,
        norm_eps=_LLAMA2_EPS if gqa > 1 else _ANY_LLAMA_EPS,
        tie_word_embeddings="output.weight" not in header.tensors,
        eos_token_ids=(_EOS_ID,),
        bos_token_id=_BOS_ID,
        dtype=_dtype(header),
    )


def _tensor(header: GgmlHeader, path: Path, name: str) -> GgmlTensor:
    if name not in header.tensors:
        raise LoadError(f"{path} has no tensor {name}; only Llama models are read from GGML files.")
    return header.tensors[name]


def _check_heads(header: GgmlHeader, path: Path, gqa: int) -> None:
    if not header.num_heads or header.hidden_size % header.num_heads or not header.hidden_size:
        raise LoadError(
            f"{path} has {header.num_heads} heads for a hidden size of {header.hidden_size}; it is "
            "damaged or no Llama model."
        )
    if gqa < 1 or header.num_heads % gqa:
        raise LoadError(
            f"{path} has {header.num_heads} heads, which cannot be shared by --gqa {gqa} each."
        )
    kv_rows = header.hidden_size // gqa
    found = _tensor(header, path, "layers.0.attention.wk.weight").shape[0]
    if found != kv_rows:
        raise LoadError(
            f"{path} has keys of {found} rows, and --gqa {gqa} makes them {kv_rows}; give --gqa "
            f"{header.hidden_size // found if found else 1}."
        )


def _dtype(header: GgmlHeader) -> str:
    """That of the largest tensor; packed ones are unpacked to float16, the scales' own."""
    kind = header.tensors["tok_embeddings.weight"].type.name
    return {"F32": "float32"}.get(kind, "float16")
