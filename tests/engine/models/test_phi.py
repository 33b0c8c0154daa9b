"""Phi's and StarCoder2's own: names in GGUF files, fused projections, bfloat16."""

import pytest
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType as Type, get_tensor_name_map
from transformers import PreTrainedModel

from engine.models.registry import load_class
from engine.weights.checkpoint import open_checkpoint
from engine.weights.family import gguf_family
from engine.weights.files import ModelRef, resolve
from engine.weights.names import hf_name
from tests.engine.models import gguf_files, tiny
from tests.engine.models.paged import PagedModel

ARCHS = {"phi": "phi2", "phi3": "phi3", "starcoder2": "starcoder2"}


@pytest.mark.parametrize(("name", "arch"), ARCHS.items())
def test_the_names_in_gguf_files_are_gguf_pys(name, arch, reference):
    model: PreTrainedModel = reference(name)
    theirs = get_tensor_name_map(MODEL_ARCH[arch.upper()], model.config.num_hidden_layers)
    for parameter, _ in model.named_parameters():
        expected = theirs.get_name(parameter, try_suffixes=(".weight", ".bias"))
        assert gguf_files.gguf_name(parameter, arch) == expected
        assert hf_name(expected, gguf_family(arch).names) == parameter


def test_a_phi_2_file_may_have_query_key_and_value_in_one_tensor(tmp_path, load_model, monkeypatch):
    """Files converted from Microsoft's first checkpoints do."""
    model = tiny.make_model("phi")
    weights = dict(model.named_parameters())
    for layer in range(model.config.num_hidden_layers):
        for kind in ("weight", "bias"):
            prefix = f"model.layers.{layer}.self_attn"
            parts = [weights.pop(f"{prefix}.{part}_proj.{kind}").data for part in "qkv"]
            weights[f"{prefix}.qkv_proj.{kind}"] = torch.cat(parts)
    fused = {name.replace("self_attn.qkv_proj", "attn_qkv"): w for name, w in weights.items()}
    monkeypatch.setattr(gguf_files, "_weights", lambda _: [(n, w.data) for n, w in fused.items()])
    path = gguf_files.write_gguf(model, tmp_path / "model.gguf", Type.F32)
    prompt = tiny.prompts()[2]
    actual = PagedModel(load_model(path)).prefill(prompt, chunk=16)
    assert (actual - tiny.reference_logits(model, prompt)).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ["phi", "phi3-long", "starcoder2"])
def test_in_bfloat16_the_logits_are_close_to_transformers(name, checkpoints):
    checkpoint = open_checkpoint(resolve(ModelRef(model=str(checkpoints(name)))))
    model_class = load_class(checkpoint.config.architecture)
    model = model_class(checkpoint.config, torch.bfloat16, torch.device("cpu"))
    model.load(checkpoint)
    prompt = tiny.prompts()[2]
    expected = tiny.reference_logits(tiny.make_model(name).bfloat16(), prompt).float()
    actual = PagedModel(model).prefill(prompt, chunk=16)
    assert (actual - expected).std() <= 5e-2 * expected.std()
