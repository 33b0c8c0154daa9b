"""Tensors out of safetensors and GGUF files, and into a model."""

import struct

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import save_file

from engine.errors import LoadError
from engine.models.registry import load_class
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from engine.weights.names import hf_name
from engine.weights.safetensors_header import read_header
from tests.engine.models import tiny
from tests.engine.models.gguf_files import write_gguf

CPU = torch.device("cpu")


def open_path(path):
    return open_checkpoint(resolve(ModelRef(model=str(path))))


def load(checkpoint, dtype=torch.float32, progress=None):
    model = load_class(checkpoint.config.architecture)(checkpoint.config, dtype, CPU)
    model.load(checkpoint, progress)
    return model


@pytest.fixture(scope="module")
def llama():
    return tiny.make_model("llama")


def test_a_sharded_checkpoint_has_all_tensors(tmp_path, llama):
    llama.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    checkpoint = open_path(tmp_path)
    expected = dict(llama.named_parameters())
    assert checkpoint.names() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.tensor(name), tensor)


def test_a_gguf_checkpoint_has_the_tensors_of_the_original(tmp_path, llama):
    checkpoint = open_path(write_gguf(llama, tmp_path / "model.gguf", Type.F16))
    expected = dict(llama.named_parameters())
    assert checkpoint.names() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.tensor(name).float(), tensor), name


def test_unpacking_many_rows_goes_in_pieces_without_a_seam(tmp_path):
    model = tiny.make_model("llama", vocab_size=2500, num_hidden_layers=1)
    checkpoint = open_path(write_gguf(model, tmp_path / "model.gguf", Type.Q8_0))
    assert torch.equal(
        checkpoint.tensor("model.embed_tokens.weight"), model.model.embed_tokens.weight
    )


@pytest.mark.parametrize("form", ["safetensors", "gguf"])
def test_a_missing_tensor_is_named(tmp_path, llama, form):
    if form == "gguf":
        path = write_gguf(llama, tmp_path / "model.gguf", Type.F32)
    else:
        llama.save_pretrained(path := tmp_path)
    with pytest.raises(LoadError, match=r"has no tensor model.layers.9.mlp.up_proj.weight"):
        open_path(path).tensor("model.layers.9.mlp.up_proj.weight")


def test_a_config_that_asks_for_a_layer_too_many_names_its_first_tensor(tmp_path, llama):
    llama.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('_layers": 3', '_layers": 4'))
    with pytest.raises(LoadError, match=r"no tensor model.layers.3.input_layernorm.weight"):
        load(open_path(tmp_path))


def test_a_tensor_that_no_layer_uses_stops_the_load(tmp_path, llama):
    llama.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('_layers": 3', '_layers": 2'))
    with pytest.raises(LoadError, match=r"9 tensors that LlamaForCausalLM does not use, for exam"):
        load(open_path(tmp_path))


def test_a_tensor_of_another_shape_stops_the_load(tmp_path, llama):
    llama.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('_size": 96', '_size": 80'))
    with pytest.raises(
        LoadError, match=r"gate_proj.weight has the shape \[96, 64\], but .*\[80, 64"
    ):
        load(open_path(tmp_path))


def test_a_tied_checkpoint_may_keep_a_copy_of_the_embedding(tmp_path):
    model = tiny.make_model("llama3")
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    save_file(tensors, tmp_path / "model.safetensors")
    loaded = load(open_path(tmp_path))
    assert loaded.lm_head.weight is loaded.embedding.weight


def test_progress_ends_at_the_size_of_the_model(tmp_path, llama):
    llama.save_pretrained(tmp_path)
    reports = []
    model = load(open_path(tmp_path), torch.bfloat16, lambda *report: reports.append(report))
    size = sum(weight.nbytes for weight in model.parameters())
    assert size == 2 * sum(weight.numel() for weight in llama.parameters())
    assert reports[-1] == (size, size)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "damaged or cut short"),
        (struct.pack("<Q", 1 << 40), "its header is longer than the file"),
        (struct.pack("<Q", 8) + b"not json", "damaged or cut short"),
        (struct.pack("<Q", 12) + b'{"a": {"b":1}}', "damaged or cut short"),
        (
            struct.pack("<Q", 57) + b'{"a": {"dtype": "F32", "shape": [4], "data_offsets":[0,16]}}',
            "damaged",
        ),
    ],
    ids=["empty", "long-header", "no-json", "no-tensors", "short-data"],
)
def test_a_damaged_safetensors_file_is_refused(tmp_path, data, says):
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(LoadError, match=says):
        read_header(tmp_path / "model.safetensors")


def test_a_safetensors_file_cut_short_is_refused_before_it_is_loaded(tmp_path, llama):
    llama.save_pretrained(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:-100])
    with pytest.raises(LoadError, match="bytes of weights and its header says"):
        open_path(tmp_path)


@pytest.mark.parametrize(
    ("gguf", "hf"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.12.attn_q.bias", "model.layers.12.self_attn.q_proj.bias"),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
        ("blk.3.attn_k_norm.weight", "model.layers.3.self_attn.k_norm.weight"),
        ("blk.3.ffn_gate_inp.weight", "model.layers.3.mlp.gate.weight"),
        ("blk.3.ffn_gate.5.weight", "model.layers.3.mlp.experts.5.gate_proj.weight"),
        ("blk.3.ffn_gate_shexp.weight", "blk.3.ffn_gate_shexp.weight"),
        ("blk.3.attn_q.5.weight", "blk.3.attn_q.5.weight"),
        ("rope_factors_long.weight", "rope_factors_long.weight"),
    ],
)
def test_gguf_names_become_hugging_face_names(gguf, hf):
    assert hf_name(gguf, {}) == hf
