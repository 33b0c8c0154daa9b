"""A checkpoint in a GGML file, unpacked to what a Hugging Face one would hold."""

import re

from engine.errors import LoadError
from engine.weights.files import ModelFiles
from engine.weights.ggml_config import ggml_config
from engine.weights.ggml_header import GgmlTensor, read_ggml
from engine.weights.ggml_tensors import PLAIN_DTYPES, GgmlTensors
from engine.weights.model_config import check_model_config
from engine.weights.tensor_reader import Place

_ROOT = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attention_norm": "input_layernorm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}
_LAYER_TENSOR = re.compile(r"layers\.(?P<layer>\d+)\.(?P<part>[\w.]+)\.weight")
_SPARE = re.compile(r"(layers\.\d+\.attention\.inner_attention\.)?rope\.freqs")


class GgmlCheckpoint(GgmlTensors):
    """Tensors of the one file of `files.weights`; its rows are in the order of Meta's rotary."""

    def __init__(self, files: ModelFiles) -> None:
        path, *others = files.weights
        if others:
            raise LoadError(
                f"{path} is one of {len(files.weights)} parts; GGML models in several files are "
                "not supported, convert it to GGUF."
            )
        header = read_ggml(path)
        config = check_model_config(ggml_config(header, path, files.gqa), files.name)
        places = {
            _hf_name(name): _place(tensor)
            for name, tensor in header.tensors.items()
            if not _SPARE.fullmatch(name)
        }
        super().__init__(places, str(path), config, is_permuted=True)


def _hf_name(name: str) -> str:
    """Meta's name in Hugging Face's words; a name without a counterpart stays as it is."""
    match = _LAYER_TENSOR.fullmatch(name)
    if match and (part := _LAYER.get(match["part"])):
        return f"model.layers.{match['layer']}.{part}.weight"
    return _ROOT.get(name, name)


def _place(tensor: GgmlTensor) -> Place:
    form = PLAIN_DTYPES[tensor.type] if tensor.format is None else tensor.format
    return Place(tensor.shape, tensor.path, tensor.offset, form)
