"""Models written as GGUF: read back by our own reader, and by gguf-py."""

import json

import msgspec
import pytest
import torch
from gguf import GGMLQuantizationType as Type, GGUFReader

from engine.errors import LoadError
from engine.models.registry import load_class
from engine.quant.registry import ROW_FORMATS
from engine.text.text_model import load_text_model
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from engine.weights.gguf_mixture import find_scheme
from engine.weights.gguf_writer import open_source, write_gguf
from tests.engine.models import gguf_files, tiny
from tests.engine.models.paged import PagedModel
from tests.engine.weights.tiny_tokenizer import TEMPLATE, write_tokenizer

RECIPES = (
    *("llama", "llama-mha", "llama3", "llama-linear", "llama-yarn", "llama-bias"),
    *("mistral", "mistral-full", "qwen2", "qwen3"),
)
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8}
FORMATS = {kind.name: kind for kind in ROW_FORMATS}


def save(directory, name, **changes):
    model = tiny.make_model(name, **changes)
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return model


def convert(path, name, out):
    source = open_source(resolve(ModelRef(model=str(path))))
    return write_gguf(source, find_scheme(name), out)


def open_path(path):
    return open_checkpoint(resolve(ModelRef(model=str(path))))


def load(checkpoint):
    load_into = load_class(checkpoint.config.architecture)
    model = load_into(checkpoint.config, torch.float32, torch.device("cpu"))
    model.load(checkpoint, None)
    return model


def round_trip(weights, kind):
    if kind.name in FORMATS:
        return FORMATS[kind.name].dequantize(FORMATS[kind.name].quantize(weights))
    dtype = {Type.F32: torch.float32, Type.F16: torch.float16, Type.BF16: torch.bfloat16}[kind]
    return weights.to(dtype).float()


@pytest.mark.parametrize("name", RECIPES)
def test_a_float32_file_holds_the_same_model(name, tmp_path):
    model = save(tmp_path / "hf", name)
    convert(tmp_path / "hf", "F32", tmp_path / "out.gguf")
    original, written = open_path(tmp_path / "hf"), open_path(tmp_path / "out.gguf")
    assert written.names() == dict(model.named_parameters()).keys()
    for tensor in written.names():
        assert torch.equal(written.tensor(tensor), original.tensor(tensor)), tensor
    ours, theirs = written.config, original.config
    if name == "mistral-full":  # without a window it is a Llama, and the file says so
        ours = msgspec.structs.replace(ours, architecture="MistralForCausalLM")
    for field in ours.__struct_fields__:
        if field not in ("rope_scaling", "rope_theta", "norm_eps", "windows"):
            assert getattr(ours, field) == getattr(theirs, field), field
    assert ours.norm_eps == pytest.approx(theirs.norm_eps)  # the file has float32
    assert (ours.windows or (0,) * 3) == (theirs.windows or (0,) * 3)


@pytest.mark.parametrize("name", ["llama", "llama3", "llama-linear", "llama-yarn", "qwen3"])
def test_a_float32_file_has_transformers_logits(name, tmp_path):
    model = save(tmp_path / "hf", name)
    convert(tmp_path / "hf", "F32", tmp_path / "out.gguf")
    prompt = tiny.prompts()[2]
    actual = PagedModel(load(open_path(tmp_path / "out.gguf"))).prefill(prompt, chunk=16)
    assert (actual - tiny.reference_logits(model, prompt)).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q3_K_L", "Q2K", "6"])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_packed_file_has_the_logits_of_its_weights(name, kind, tmp_path):
    model = save(tmp_path / "hf", name, **WIDE)
    types = convert(tmp_path / "hf", kind, tmp_path / "out.gguf")
    written = open_path(tmp_path / "out.gguf")
    for hf, weight in model.named_parameters():
        gguf = hf
        for ours, theirs in gguf_files._NAMES:
            gguf = gguf.replace(ours, theirs)
        weight.data.copy_(round_trip(weight.data, types[gguf]))
        assert torch.equal(written.tensor(hf).float(), weight.data), hf
    prompt = tiny.prompts()[2]
    actual = PagedModel(load(open_path(tmp_path / "out.gguf"))).prefill(prompt, chunk=16)
    assert (actual - tiny.reference_logits(model, prompt)).abs().max() <= 1e-3


def test_text_goes_in_and_out_as_with_the_original(tmp_path):
    save(tmp_path / "hf", "llama")
    convert(tmp_path / "hf", "F16", tmp_path / "out.gguf")
    original = load_text_model(resolve(ModelRef(model=str(tmp_path / "hf"))))
    written = load_text_model(resolve(ModelRef(model=str(tmp_path / "out.gguf"))))
    text = "The hen's 12345 turns;\n\n then </s> naïve 你好"
    ids = original.tokenizer.encode(text)
    assert written.tokenizer.encode(text) == ids
    assert written.tokenizer.decode(ids) == original.tokenizer.decode(ids)
    field = GGUFReader(tmp_path / "out.gguf").fields["tokenizer.chat_template"]
    assert field.contents() == TEMPLATE


def test_a_gguf_file_is_packed_again_with_all_that_it_says(tmp_path):
    model = tiny.make_model("llama3", **WIDE)
    path = gguf_files.write_gguf(model, tmp_path / "in.gguf", Type.F16)
    types = convert(path, "Q4_K_M", tmp_path / "out.gguf")
    before, after = GGUFReader(path), GGUFReader(tmp_path / "out.gguf")
    added = {"general.file_type", "general.quantization_version"}
    changed = {"GGUF.kv_count", *added}
    assert after.fields.keys() - before.fields.keys() == added
    for name, field in before.fields.items():
        if name not in changed:
            assert after.fields[name].contents() == field.contents(), name
            assert after.fields[name].types == field.types, name
    assert [t.name for t in after.tensors] == [t.name for t in before.tensors]
    original, written = open_path(path), open_path(tmp_path / "out.gguf")
    weights = original.tensor("model.layers.1.mlp.up_proj.weight").float().clone()
    assert types["blk.1.ffn_up.weight"] is Type.Q4_K
    expected = round_trip(weights, Type.Q4_K)
    assert torch.equal(written.tensor("model.layers.1.mlp.up_proj.weight"), expected)
    assert types["rope_freqs.weight"] is Type.F32
    freqs = [
        next(t.data for t in r.tensors if t.name == "rope_freqs.weight") for r in (before, after)
    ]
    assert freqs[0].tolist() == freqs[1].tolist()


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe", "smollm3", "olmo2"])
def test_a_gguf_file_of_any_family_is_packed_again(name, tmp_path):
    wide = {"moe_intermediate_size": 64} if name == "qwen3-moe" else {}
    model = tiny.make_model(name, **wide)
    path = gguf_files.write_gguf(model, tmp_path / "in.gguf", Type.F16)
    types = convert(path, "Q8_0", tmp_path / "out.gguf")
    original, written = open_path(path), open_path(tmp_path / "out.gguf")
    assert written.names() == original.names()
    num_packed = 0
    for tensor in original.names():
        weights = original.tensor(tensor).float().clone()
        is_packed = weights.dim() > 1 and not tensor.endswith("mlp.gate.weight")
        expected = round_trip(weights, Type.Q8_0) if is_packed else weights
        assert torch.equal(written.tensor(tensor).float(), expected), tensor
        num_packed += is_packed
    assert Type.Q8_0 in types.values()
    assert num_packed > 20


def test_splits_become_one_file(tmp_path):
    model = tiny.make_model("llama")
    first = gguf_files.write_gguf(model, tmp_path / "in-00001-of-00003.gguf", Type.F16, 3)
    convert(first, "Q8_0", tmp_path / "out.gguf")
    written = open_path(tmp_path / "out.gguf")
    assert written.names() == dict(model.named_parameters()).keys()
    assert not [n for n in GGUFReader(tmp_path / "out.gguf").fields if n.startswith("split.")]


def test_what_has_its_type_already_keeps_its_bytes(tmp_path):
    model = tiny.make_model("llama")
    path = gguf_files.write_gguf(model, tmp_path / "in.gguf", Type.Q8_0)
    convert(path, "Q8_0", tmp_path / "out.gguf")
    pairs = zip(GGUFReader(path).tensors, GGUFReader(tmp_path / "out.gguf").tensors, strict=True)
    for before, after in pairs:
        assert before.tensor_type == after.tensor_type
        assert before.data.tobytes() == after.data.tobytes()


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    save(tmp_path / "hf", "llama")
    (tmp_path / "out.gguf").write_text("mine")
    with pytest.raises(LoadError, match="exists; remove it, or choose another name"):
        convert(tmp_path / "hf", "F16", tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_text() == "mine"


def test_weights_that_are_no_numbers_are_named_and_leave_no_file(tmp_path):
    model = tiny.make_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 3] = float("nan")
    model.save_pretrained(tmp_path / "hf")
    write_tokenizer(tmp_path / "hf")
    with pytest.raises(
        LoadError, match=r"blk.1.ffn_up.weight cannot be written: there are weights"
    ):
        convert(tmp_path / "hf", "Q8_0", tmp_path / "out.gguf")
    assert {p.name for p in tmp_path.iterdir()} == {"hf"}


def test_weights_too_large_for_float16_are_refused_there(tmp_path):
    model = tiny.make_model("llama")
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e6
    model.save_pretrained(tmp_path / "hf")
    write_tokenizer(tmp_path / "hf")
    with pytest.raises(LoadError, match="no finite numbers in F16"):
        convert(tmp_path / "hf", "F16", tmp_path / "out.gguf")


def test_layers_with_and_without_a_window_are_refused(tmp_path):
    save(tmp_path / "hf", "qwen2-window")
    with pytest.raises(LoadError, match="a window beside layers without"):
        convert(tmp_path / "hf", "F16", tmp_path / "out.gguf")


def test_a_directory_that_is_not_there_is_one_sentence(tmp_path):
    save(tmp_path / "hf", "llama")
    with pytest.raises(LoadError, match="cannot be written: No such file"):
        convert(tmp_path / "hf", "F16", tmp_path / "no" / "out.gguf")


def test_packing_what_was_packed_already_is_told(tmp_path, caplog):
    model = tiny.make_model("llama")
    path = gguf_files.write_gguf(model, tmp_path / "in.gguf", Type.Q8_0)
    convert(path, "Q4_0", tmp_path / "out.gguf")
    assert "tensors are packed already (Q8_0) and are packed again" in caplog.text
    weights = open_path(path).tensor("model.layers.1.mlp.up_proj.weight").clone()
    written = open_path(tmp_path / "out.gguf").tensor("model.layers.1.mlp.up_proj.weight")
    assert torch.equal(written, round_trip(weights, Type.Q4_0))


def test_an_alignment_of_its_own_is_kept(tmp_path):
    model = tiny.make_model("llama")

    def align(writer):
        writer.add_custom_alignment(128)

    path = gguf_files.write_gguf(model, tmp_path / "in.gguf", Type.F16, describe=align)
    convert(path, "Q4_0", tmp_path / "out.gguf")
    reader = GGUFReader(tmp_path / "out.gguf")
    assert reader.alignment == 128
    assert all(tensor.data_offset % 128 == 0 for tensor in reader.tensors)
    assert open_path(tmp_path / "out.gguf").names() == open_path(path).names()


def test_positions_that_a_gguf_file_cannot_say_are_refused(tmp_path):
    save(tmp_path / "hf", "llama")
    source = tmp_path / "hf"
    config = json.loads((source / "config.json").read_text())
    config["rope_parameters"] = {**tiny._YARN, "mscale": 1.0, "mscale_all_dim": 1.0}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match="YaRN with mscale or without truncation"):
        convert(source, "F16", tmp_path / "out.gguf")
