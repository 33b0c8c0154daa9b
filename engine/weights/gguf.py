"""A checkpoint in a GGUF file, unpacked to what a Hugging Face one would hold."""

from engine.config import ModelConfig
from engine.quant.block_format import block_format
from engine.weights.files import ModelFiles
from engine.weights.ggml_tensors import PLAIN_DTYPES, GgmlTensors
from engine.weights.gguf_config import read_gguf_config, read_gguf_family
from engine.weights.gguf_experts import split_experts
from engine.weights.gguf_metadata import GgufTensor, read_gguf
from engine.weights.model_config import check_model_config
from engine.weights.names import hf_name
from engine.weights.tensor_reader import Place

_IN_CONFIG = frozenset(
    {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
)


class GgufCheckpoint(GgmlTensors):
    """Tensors of `files.weights`, all splits together, under Hugging Face names."""

    def __init__(self, files: ModelFiles) -> None:
        header = read_gguf(files.weights)
        config: ModelConfig = check_model_config(
            read_gguf_config(header, files.weights[0]), files.name
        )
        family = read_gguf_family(header, files.weights[0])
        tensors = [t for t in header.tensors.values() if t.name not in _IN_CONFIG]
        places = {hf_name(t.name, family.names): _place(t) for t in split_experts(tensors)}
        path = str(files.weights[0])
        super().__init__(places, path, config, is_permuted=family.is_permuted)


def _place(tensor: GgufTensor) -> Place:
    dtype = PLAIN_DTYPES.get(tensor.type)
    form = block_format(tensor.type) if dtype is None else dtype
    kind = int(tensor.type) if dtype is None else None
    return Place(tensor.shape, tensor.path, tensor.offset, form, tensor.is_big_endian, kind)
