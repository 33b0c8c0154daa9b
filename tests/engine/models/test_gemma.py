"""What is Gemma's alone: rounding in bfloat16, and checkpoints that see pictures."""

import json
import logging

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file

from engine.errors import LoadError
from engine.models.registry import load_class
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from tests.engine.models import tiny
from tests.engine.models.gguf_files import write_gguf
from tests.engine.models.paged import PagedModel

NAMES = ("gemma", "gemma2", "gemma3")


def load_rounded(path):
    checkpoint = open_checkpoint(resolve(ModelRef(model=str(path))))
    model_class = load_class(checkpoint.config.architecture)
    model = model_class(checkpoint.config, torch.bfloat16, torch.device("cpu"))
    model.load(checkpoint)
    return model


def rounded_logits(model, prompt):
    paged = PagedModel(model)
    paged.kv_cache = [(key.bfloat16(), value.bfloat16()) for key, value in paged.kv_cache]
    return paged.prefill(prompt, chunk=16)


def relative_error(logits, expected):
    return ((logits - expected).pow(2).mean().sqrt() / expected.std()).item()


@pytest.mark.parametrize("name", NAMES)
def test_in_bfloat16_it_is_no_further_from_the_truth_than_transformers(name, tmp_path):
    theirs = tiny.make_model(name, num_hidden_layers=3).bfloat16()
    theirs.save_pretrained(tmp_path)
    prompt = tiny.prompts()[3]
    actual = rounded_logits(load_rounded(tmp_path), prompt)
    expected = tiny.reference_logits(theirs, prompt).float()
    exact = tiny.reference_logits(theirs.float(), prompt)
    assert relative_error(actual, expected) <= 0.05
    assert relative_error(actual, exact) <= 1.1 * relative_error(expected, exact)


@pytest.mark.parametrize("name", NAMES)
def test_norms_of_a_file_that_has_the_one_added_stay_float32(name, tmp_path):
    model = tiny.make_model(name)
    ours = load_rounded(write_gguf(model, tmp_path / "model.gguf", Type.F32))
    norms = {
        key: weight
        for key, weight in ours.named_parameters()
        if "norm" in key and "layers.0" in key
    }
    theirs = model.model.layers[0].input_layernorm.weight
    assert len(norms) == {"gemma": 2, "gemma2": 4, "gemma3": 6}[name]
    assert {weight.dtype for weight in norms.values()} == {torch.float32}
    assert torch.equal(norms["layers.0.input_norm.weight"], 1 + theirs)


@pytest.fixture
def vision(tmp_path):
    """The directory of a checkpoint with an image encoder, and a way to change its tensors."""
    tiny.save_checkpoint("gemma3-vision", tmp_path)
    path = tmp_path / "model.safetensors"

    def rewrite(change):
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return tmp_path, rewrite


def as_since_4_52(tensors):
    """The names of the modules in memory since transformers 4.52."""
    return {
        f"model.{name.replace('language_model.model.', 'language_model.')}": tensor
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("change", [dict, as_since_4_52], ids=["published", "in-memory"])
def test_pictures_are_left_out_whatever_prefix_the_text_has(change, vision, load_model, caplog):
    path, rewrite = vision
    rewrite(change)
    with caplog.at_level(logging.WARNING):
        model = load_model(path)
    prompt = tiny.prompts()[2]
    expected = tiny.reference_logits(tiny.make_model("gemma3-vision"), prompt)
    assert (PagedModel(model).prefill(prompt, chunk=7) - expected).abs().max() <= 1e-4
    (message,) = caplog.messages
    assert message.startswith("Gemma3ForConditionalGeneration is served for text only: 34 tensors")


def test_a_tensor_that_is_neither_text_nor_picture_is_an_error(vision, load_model):
    path, rewrite = vision
    rewrite(lambda tensors: {**tensors, "audio_tower.weight": torch.zeros(1)})
    with pytest.raises(LoadError, match=r"has 1 tensors that Gemma3.*audio_tower.weight"):
        load_model(path)


def test_a_text_tensor_that_is_missing_is_named(vision, load_model):
    path, rewrite = vision
    rewrite(lambda tensors: {n: t for n, t in tensors.items() if "model.norm" not in n})
    with pytest.raises(LoadError, match=r"no tensor model.norm.weight of the model"):
        load_model(path)


def test_the_gelu_that_is_not_by_tanh_is_refused(tmp_path, load_model):
    tiny.save_checkpoint("gemma2", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_activation": "gelu"}))
    with pytest.raises(LoadError, match="the activation gelu is not supported; supported are silu"):
        load_model(tmp_path)
