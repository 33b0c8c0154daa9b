"""Whole models that other tools quantised: the logits of their weights, and packed in memory."""

import json

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file

from engine.layers.linear import Linear
from engine.models.registry import load_class
from engine.weights import loader
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from kernels.packing import can_pack
from tests.engine.models import tiny
from tests.engine.models.paged import PagedModel
from tests.engine.weights import prequantised_files as files
from tests.engine.weights.test_prequantised_layouts import AWQ, FP8, compressed, gptq

METHODS = {
    "gptq": (lambda w: files.gptq(w), gptq(), 1032),
    "awq": (lambda w: files.awq(w), {**AWQ, "group_size": 32}, 1032),
    "fp8": (lambda w: files.fp8(w, (32, 32)), {**FP8, "weight_block_size": [32, 32]}, 3032),
    "compressed-tensors": (
        lambda w: files.compressed_ints(w, 8, -1, is_packed=False),
        compressed(8, form="int-quantized"),
        2032,
    ),
}
WIDE = {"qwen3-moe": {"moe_intermediate_size": 64}}


def is_quantised(name, tensor):
    return name.endswith("proj.weight") and tensor.dim() == 2


def quantise(name, directory, method):
    """A checkpoint in `directory`, and transformers' model of the weights that it stands for."""
    pack, quantization, _ = METHODS[method]
    model = tiny.make_model(name, **WIDE.get(name, {}))
    model.save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(
        json.dumps({**config, "quantization_config": quantization})
    )
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, torch.Tensor] = {}
    for key, tensor in load_file(directory / "model.safetensors").items():
        if is_quantised(key, tensor):
            parts, weights = pack(tensor.numpy())
            stem = key.removesuffix("weight")
            tensors |= {stem + word: part for word, part in parts.items()}
            plain[key] = torch.from_numpy(weights)
        else:
            tensors[key] = plain[key] = tensor
    assert len(plain) < len(tensors)
    save_file(tensors, directory / "model.safetensors")
    other = directory / "plain"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    save_file(plain, other / "model.safetensors", {"format": "pt"})
    return type(model).from_pretrained(other, dtype=torch.float32, attn_implementation="eager")


def load(directory):
    checkpoint = open_checkpoint(resolve(ModelRef(model=str(directory))))
    model_class = load_class(checkpoint.config.architecture)
    model = model_class(checkpoint.config, torch.float32, torch.device("cpu"))
    model.load(checkpoint)
    return model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llama", "qwen3-moe", "phi3"])
def test_logits_are_those_of_the_dequantised_model(name, method, tmp_path):
    reference = quantise(name, tmp_path, method)
    model = load(tmp_path)
    prompt = tiny.prompts()[2]
    actual = PagedModel(model).prefill(prompt, chunk=16)
    assert (actual - tiny.reference_logits(reference, prompt)).abs().max() <= 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_matrices_stay_packed_where_there_are_kernels(name, method, tmp_path):
    kind = METHODS[method][2]
    if not can_pack(kind, 64):
        pytest.skip("no kernels for it here")
    quantise(name, tmp_path, method)
    model = load(tmp_path)
    linears = {key: m for key, m in model.named_modules() if isinstance(m, Linear)}
    for key, linear in linears.items():
        is_packed = key != "lm_head"
        assert bool(linear.packed) == is_packed, key
        assert bool(linear.weight.numel()) != is_packed, key
        assert all(matrix.kind // 1000 == kind // 1000 for matrix in linear.packed)


@pytest.mark.parametrize("method", METHODS)
def test_a_machine_without_kernels_unpacks_to_the_same_model(method, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.weights.loader.can_pack", lambda *_: False)
    reference = quantise("llama", tmp_path, method)
    model = load(tmp_path)
    assert not any(module.packed for module in model.modules() if isinstance(module, Linear))
    prompt = tiny.prompts()[2]
    actual = PagedModel(model).prefill(prompt, chunk=16)
    assert (actual - tiny.reference_logits(reference, prompt)).abs().max() <= 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_what_the_method_left_in_sixteen_bits_stays_so(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "MANY_BYTES", 0)
    if not can_pack(Type.BF16, 64):
        pytest.skip("no kernels for it here")
    reference = quantise("llama", tmp_path, "gptq")
    tensors = load_file(tmp_path / "model.safetensors")
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[key] = tensors[key].to(dtype)
        reference.get_parameter(key).data.copy_(tensors[key])
    save_file(tensors, tmp_path / "model.safetensors")
    model = load(tmp_path)
    kind = Type.F16 if dtype == torch.float16 else Type.BF16
    assert model.embedding.packed.kind == model.lm_head.packed[0].kind == kind
    assert not model.embedding.weight.numel()
    assert not model.lm_head.weight.numel()
    prompt = tiny.prompts()[1]
    actual = PagedModel(model).prefill(prompt, chunk=16)
    assert (actual - tiny.reference_logits(reference, prompt)).abs().max() <= 1e-4


def test_biases_of_zeros_that_the_model_has_not_are_ignored(tmp_path):
    reference = quantise("llama", tmp_path, "gptq")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {
        name.replace("qweight", "bias"): torch.zeros(tensor.shape[1], dtype=torch.float16)
        for name, tensor in tensors.items()
        if name.endswith("qweight")
    }
    save_file(tensors, tmp_path / "model.safetensors")
    prompt = tiny.prompts()[1]
    actual = PagedModel(load(tmp_path)).prefill(prompt, chunk=16)
    assert (actual - tiny.reference_logits(reference, prompt)).abs().max() <= 1e-4
