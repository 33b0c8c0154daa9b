"""Models quantised as they are loaded, against the files and the weights that they should equal."""

import logging
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file

from engine.config import EngineConfig
from engine.errors import LoadError
from engine.layers.experts import Experts
from engine.layers.linear import Linear
from engine.layers.packed_experts import PackedExperts
from engine.models.registry import load_class
from engine.quant.names import ISQ_NAMES
from engine.quant.q8_0 import Q8_0
from engine.quant.registry import find_format, fitting_format, step_up
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from engine.weights.gguf_mixture import find_scheme
from engine.weights.gguf_writer import open_source, write_gguf
from engine.weights.isq import can_quantise, requested_isq
from tests.engine.models import gguf_files, tiny
from tests.engine.models.paged import PagedModel
from tests.engine.models.test_gguf_families import WIDE
from tests.engine.weights.tiny_tokenizer import write_tokenizer

PROMPT = tiny.prompts()[1]
CPU = torch.device("cpu")
ENDS = ("model.embed_tokens.weight", "lm_head.weight")


def save(directory, name="llama", **changes):
    tiny.make_model(name, **{**WIDE, **changes}).save_pretrained(directory)
    return directory


def load(path, isq="", *, topology="", is_exact=True, progress=None, dtype=torch.float32):
    checkpoint = open_checkpoint(resolve(ModelRef(model=str(path))))
    model_class = load_class(checkpoint.config.architecture)
    model = model_class(checkpoint.config, dtype, CPU)
    request = requested_isq(EngineConfig(isq=isq, topology=str(topology)), CPU)
    model.load(checkpoint, progress, is_exact=is_exact, isq=request)
    return model


def logits(model):
    return PagedModel(model).prefill(PROMPT, chunk=16)


def kinds(model):
    """The kinds of all packed matrices, experts' too."""
    found = {model.embedding.packed.kind} if model.embedding.packed else set()
    for module in model.modules():
        if isinstance(module, Linear):
            found |= {matrix.kind for matrix in module.packed}
        if isinstance(module, Experts) and isinstance(module.packed, PackedExperts):
            found |= {matrix.kind for pair in module.packed.gate_up for matrix in pair}
            found |= {matrix.kind for matrix in module.packed.down}
    return found


def round_weights(path, isq):
    """Rewrites a checkpoint's matrices as engine/quant rounds them."""
    tensors = load_file(path / "model.safetensors")
    for name, weight in tensors.items():
        if can_quantise(name, tuple(weight.shape)):
            format = find_format(isq)
            kind: Any = fitting_format(
                step_up(format) if name in ENDS else format, weight.shape[-2:]
            )
            matrices = weight if weight.dim() == 3 else weight[None]
            rounded = [kind.dequantize(kind.quantize(matrix)) for matrix in matrices]
            tensors[name] = torch.stack(rounded).view(weight.shape)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("isq", ["2", "Q3K", "q4k", "Q5K", "6", "8"])
@pytest.mark.parametrize("is_tied", [False, True], ids=["untied", "tied"])
def test_logits_are_those_of_the_file_that_quantize_writes(isq, is_tied, tmp_path):
    path = save(tmp_path / "hf", tie_word_embeddings=is_tied)
    write_tokenizer(path)
    source = open_source(resolve(ModelRef(model=str(path))))
    write_gguf(source, find_scheme(isq), tmp_path / "model.gguf")
    ours, theirs = load(path, isq), load(tmp_path / "model.gguf")
    assert kinds(ours) == kinds(theirs)
    assert logits(ours).equal(logits(theirs))


@pytest.mark.parametrize("isq", ISQ_NAMES)
def test_every_type_has_the_logits_of_its_weights(isq, tmp_path):
    path = save(tmp_path, "qwen3", head_dim=32)
    ours = logits(load(path, isq))
    plain = logits(load(path))
    round_weights(path, isq)
    expected = logits(load(path))
    assert (ours - expected).abs().max() < 1e-4
    assert (ours - plain).abs().max() > 1e-4, "nothing was quantised"


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
@pytest.mark.parametrize("isq", ["Q8_0", "Q4K", "FP8"])
@pytest.mark.parametrize("is_stacked", [False, True], ids=["apart", "stacked"])
def test_experts_are_quantised_one_by_one(name, isq, is_stacked, tmp_path):
    model = tiny.make_model(name, **WIDE)
    model.save_pretrained(tmp_path, save_original_format=not is_stacked)
    ours = load(tmp_path, isq)
    blocks = [module for module in ours.modules() if isinstance(module, Experts)]
    assert blocks
    assert all(block.packed and not block.down_proj.numel() for block in blocks)
    assert all(block.router.weight.numel() and not block.router.packed for block in blocks)
    round_weights(tmp_path, isq)
    assert (logits(ours) - logits(load(tmp_path))).abs().max() < 1e-4


def test_experts_of_a_file_stay_packed(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    model = tiny.make_model("mixtral", **WIDE)
    path = gguf_files.write_gguf(model, tmp_path / "model.gguf", Type.Q6_K)
    expected = tiny.reference_logits(model, PROMPT)
    loaded = load(path)
    assert kinds(loaded) == {Type.Q6_K}
    assert (logits(loaded) - expected).abs().max() < 1e-4
    experts = next(module for module in loaded.modules() if isinstance(module, Experts))
    assert experts(torch.empty(0, 256)).shape == (0, 256)
    assert f"{2 * (4 * 3 + 4) + 2} Q6_K" in caplog.text


def test_rows_that_do_not_fit_get_another_type_and_one_warning(tmp_path, caplog):
    path = save(tmp_path, hidden_size=64, intermediate_size=96, num_attention_heads=4)
    model = load(path, "Q4K")
    assert kinds(model) == {Type.Q4_1, Type.Q5_1}
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warning == (
        "some matrices do not fit the blocks of their type: Q6_K -> Q5_1: 2 matrices "
        "(lm_head.weight, model.embed_tokens.weight); Q4_K -> Q4_1: 14 matrices "
        "(model.layers.0.mlp.down_proj.weight, model.layers.0.mlp.gate_proj.weight, "
        "model.layers.0.mlp.up_proj.weight, …)"
    )


def test_a_matrix_that_fits_no_block_stays_as_it_is_and_its_neighbours_with_it(tmp_path, caplog):
    path = save(tmp_path, hidden_size=64, intermediate_size=72, num_attention_heads=4)
    model = load(path, "Q4_0")
    assert not model.layers[0].mlp.down_proj.packed
    assert model.layers[0].mlp.gate_up_proj.packed
    assert "Q4_0 -> not quantised: 2 matrices" in caplog.text


def test_a_packed_file_is_quantised_again_with_a_warning(tmp_path, caplog):
    model = tiny.make_model("llama3", **WIDE)
    path = gguf_files.write_gguf(model, tmp_path / "model.gguf", Type.Q8_0)
    again = load(path, "Q4K")
    assert kinds(again) == {Type.Q4_K, Type.Q6_K}
    assert "15 matrices" in caplog.text
    assert "packed already in the file and quantised again" in caplog.text
    model.save_pretrained(tmp_path / "hf")  # write_gguf has left it with the file's weights
    expected = logits(load(tmp_path / "hf", "Q4K"))
    assert (logits(again) - expected).abs().max() < 1e-4


def test_a_file_that_has_the_type_already_is_kept(tmp_path, caplog):
    model = tiny.make_model("llama3", **WIDE)
    path = gguf_files.write_gguf(model, tmp_path / "model.gguf", Type.Q8_0)
    assert logits(load(path, "8")).equal(logits(load(path)))
    assert "again" not in caplog.text


@pytest.mark.parametrize("isq", ["Q4K", "Q8_K", "FP8"])
def test_without_kernels_weights_stay_packed_all_the_same(isq, tmp_path, monkeypatch):
    path = save(tmp_path, "mixtral")
    expected = logits(load(path, isq))
    for place in ("kernels.packing", "kernels.cpu.packed_linear", "kernels.cpu.packed_rows"):
        monkeypatch.setattr(f"{place}.load_library", lambda: None)
    model = load(path, isq)
    assert kinds(model)
    assert not model.lm_head.packed[0].is_tiled
    assert not model.lm_head.weight.numel()
    assert (logits(model) - expected).abs().max() < 1e-4


def test_progress_ends_at_the_whole_and_never_goes_back(tmp_path):
    calls = []
    path = save(tmp_path, "mixtral", vocab_size=40_000)
    load(path, "Q8_0", progress=lambda *call: calls.append(call))
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert calls[-1][0] == calls[-1][1] > 0
    assert done[0] < 40_000 * 256 * 4, "the embedding is more than one piece"


def test_weights_that_are_no_numbers_are_named(tmp_path):
    path = save(tmp_path)
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.1.self_attn.o_proj.weight"][3, 5] = float("nan")
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadError, match=r"layers.1.self_attn.o_proj.weight cannot be quantised"):
        load(path, "Q4K")


def test_a_topology_goes_before_the_type_of_all(tmp_path):
    path = save(tmp_path / "hf")
    topology = tmp_path / "topology.yml"
    topology.write_text("0: {isq: Q8_0}\n'/lm_head/': {isq: Q2K}\n'/1.*down_proj/': {isq: Q3K}\n")
    model = load(path, "Q4K", topology=topology)
    first, second = model.layers
    assert [m.kind for m in first.attention.qkv_proj.packed] == [Type.Q8_0] * 3
    assert [m.kind for m in second.attention.qkv_proj.packed] == [Type.Q4_K] * 3
    assert second.mlp.down_proj.packed[0].kind == Type.Q3_K
    assert model.lm_head.packed[0].kind == Type.Q2_K
    assert model.embedding.packed.kind == Type.Q6_K


def test_a_topology_alone_quantises_what_it_names(tmp_path):
    path = save(tmp_path / "hf")
    topology = tmp_path / "topology.yml"
    topology.write_text("1-2: {isq: 4}\n'/v_proj/': {isq: Q8_0}\n")
    model = load(path, topology=topology)
    first, second = model.layers
    assert not first.mlp.down_proj.packed
    assert second.mlp.down_proj.packed[0].kind == Type.Q4_K
    # q and k are plain, so v is too; it has the values of its type all the same
    assert not first.attention.qkv_proj.packed
    v_proj = load_file(path / "model.safetensors")["model.layers.0.self_attn.v_proj.weight"]
    expected = Q8_0.dequantize(Q8_0.quantize(v_proj))
    assert first.attention.qkv_proj.weight[-len(expected) :].equal(expected)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0-3: {isq: Q8_0}", "speaks of layer 2, but the model has 2, from 0 to 1"),
        ("'/q_porj/': {isq: Q8_0}", "has a name that fits /q_porj/"),
        ("'/norm/': {isq: Q8_0}", "no weight of the model that can be quantised"),
        ("0: {isq: Q8_0, device: 'cuda[1]'}", "puts layers on cuda:1, but a model is on one dev"),
    ],
)
def test_a_topology_of_another_model_is_refused(text, sentence, tmp_path):
    path = save(tmp_path / "hf")
    topology = tmp_path / "topology.yml"
    topology.write_text(text)
    with pytest.raises(LoadError, match=sentence):
        load(path, topology=topology)


def test_bfloat16_weights_and_int8_products_go_together(tmp_path):
    path = save(tmp_path)
    exact = logits(load(path, "Q8_0"))
    rounded = logits(load(path, "Q8_0", is_exact=False, dtype=torch.bfloat16)).float()
    assert 0 < (rounded - exact).std() < 0.05 * exact.std()
