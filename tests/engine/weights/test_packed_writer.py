"""Models written packed as safetensors, read back by our reader and by the safetensors package."""

import json
import shutil

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.errors import LoadError
from engine.layers.linear import Linear
from engine.models.registry import load_class
from engine.quant.registry import NAMES, find_format, step_up
from engine.quant.row_format import RowFormat
from engine.text.text_model import load_text_model
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from engine.weights.packed_writer import write_packed
from kernels.cpu.native.bindings import load_library
from tests.engine.models import gguf_files, tiny
from tests.engine.models.paged import PagedModel
from tests.engine.weights import prequantised_files
from tests.engine.weights.tiny_tokenizer import write_tokenizer

WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8}
TYPES = [name for name in NAMES if not name.isdecimal() and not name.startswith("HQQ")]
FAMILIES = (
    *("gemma", "gemma2", "gemma3", "gemma3-vision", "llama", "mistral", "mixtral", "olmo2"),
    *("phi", "phi3", "qwen2", "qwen3", "qwen3-moe-mixed", "smollm3", "starcoder2"),
)


def save(directory, name, **changes):
    model = tiny.make_model(name, **changes)
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return model


def files_of(path):
    return resolve(ModelRef(model=str(path)))


def write(path, kind, out, **options):
    return write_packed(files_of(path), find_format(kind), out, **options)


def open_path(path):
    return open_checkpoint(files_of(path))


def load(path):
    checkpoint = open_path(path)
    model_class = load_class(checkpoint.config.architecture)
    model = model_class(checkpoint.config, torch.float32, torch.device("cpu"))
    model.load(checkpoint)
    return model


def round_trip(weights, form):
    """What in-situ quantisation makes of weights."""
    return form.dequantize(form.quantize(weights))


def is_end(name):
    return name.startswith(("model.embed_tokens", "lm_head"))


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_holds_what_quantising_in_place_gives(kind, tmp_path):
    save(tmp_path / "hf", "llama", **WIDE, num_hidden_layers=1)
    kinds = write(tmp_path / "hf", kind, tmp_path / "out")
    original, written = open_path(tmp_path / "hf"), open_path(tmp_path / "out")
    assert written.names() == original.names()
    form = find_format(kind)
    for name in original.names():
        weights = original.tensor(name).clone()
        if weights.dim() > 1:
            weights = round_trip(weights, step_up(form) if is_end(name) else form)
        assert written.shape(name) == weights.shape
        assert torch.equal(written.tensor(name), weights), name
        assert bool(kinds[name]) == (weights.dim() > 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_any_family_goes_over(name, tmp_path):
    save(tmp_path / "hf", name)
    kinds = write(tmp_path / "hf", "Q8_0", tmp_path / "out")
    original, written = open_path(tmp_path / "hf"), open_path(tmp_path / "out")
    is_tied = original.config.tie_word_embeddings
    assert written.config == original.config
    assert original.names() - written.names() <= ({"lm_head.weight"} if is_tied else set())
    packed = {key for key in kinds if kinds[key]}
    assert not [key for key in packed if key.endswith("mlp.gate.weight")]  # a router
    assert not [key for key in packed if "vision" in key or "projector" in key]
    load(tmp_path / "out")


@pytest.mark.parametrize("name", ["llama3", "phi3", "qwen3-moe"])
def test_logits_are_those_of_the_same_values_unpacked(name, tmp_path):
    model = save(tmp_path / "hf", name, **WIDE)
    kinds = write(tmp_path / "hf", "Q4K", tmp_path / "out")
    assert {"Q4_K", "Q6_K"} <= set(kinds.values())
    written = open_path(tmp_path / "out")
    plain = tmp_path / "plain"
    plain.mkdir()
    shutil.copy(tmp_path / "hf" / "config.json", plain)
    tensors = {key: written.tensor(key).clone() for key in written.names()}
    save_file(tensors, plain / "model.safetensors", {"format": "pt"})
    reference = type(model).from_pretrained(plain, dtype=torch.float32, attn_implementation="eager")
    prompt = tiny.prompts()[2]
    actual = PagedModel(load(tmp_path / "out")).prefill(prompt, chunk=16)
    assert (actual - tiny.reference_logits(reference, prompt)).abs().max() <= 1e-3


def test_the_bytes_of_the_file_are_in_memory_without_quantising_again(tmp_path, monkeypatch):
    save(tmp_path / "hf", "llama", **WIDE)
    kinds = write(tmp_path / "hf", "Q4_0", tmp_path / "out")

    def refuse(*_):
        raise AssertionError("quantised while loading")

    monkeypatch.setattr(RowFormat, "quantize", refuse)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    written = open_path(tmp_path / "out")
    for name, kind in kinds.items():
        packed = written.packed(name)
        assert (packed is None) == (kind == "")
        if packed is not None:
            blocks = torch.cat([piece.clone() for piece in packed.pieces])
            assert torch.equal(blocks, stored[name])
    model = load(tmp_path / "out")
    is_packed = load_library() is not None
    linears = [module for module in model.modules() if isinstance(module, Linear)]
    assert all(bool(linear.packed) == is_packed for linear in linears)
    assert (model.embedding.packed is not None) == is_packed


def test_the_safetensors_package_reads_it(tmp_path):
    save(tmp_path / "hf", "qwen2", **WIDE)
    kinds = write(tmp_path / "hf", "Q6K", tmp_path / "out")
    original = open_path(tmp_path / "hf")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(kinds)
        assert file.metadata() == {"format": "pt"}
        for name, kind in kinds.items():
            tensor = file.get_tensor(name)
            if kind:
                assert tensor.dtype == torch.uint8
                assert tensor.shape[0] == original.shape(name)[0]
            else:
                assert torch.equal(tensor, original.tensor(name))


def test_a_large_model_is_written_in_shards(tmp_path):
    save(tmp_path / "hf", "llama", **WIDE)
    kinds = write(tmp_path / "hf", "Q8_0", tmp_path / "out", max_shard_bytes=400_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    assert sorted(set(index["weight_map"].values())) == shards
    assert index["weight_map"].keys() == kinds.keys()
    tensors = {
        name: t for shard in shards for name, t in load_file(tmp_path / "out" / shard).items()
    }
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    write(tmp_path / "hf", "Q8_0", tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert all(torch.equal(tensors[name], whole[name]) for name in kinds)
    assert open_path(tmp_path / "out").names() == kinds.keys()


def test_progress_ends_at_the_whole(tmp_path):
    save(tmp_path / "hf", "llama")
    calls = []
    write(tmp_path / "hf", "Q8_0", tmp_path / "out", progress=lambda *call: calls.append(call))
    done, total = zip(*calls, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == total[-1] > 0


def test_the_tokenizer_goes_along_and_config_keeps_what_it_says(tmp_path):
    save(tmp_path / "hf", "llama")
    write(tmp_path / "hf", "Q8_0", tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()
    before, after = (
        json.loads((tmp_path / place / "config.json").read_text()) for place in ("hf", "out")
    )
    assert after.pop("quantization_config") == {
        "quant_method": "tramontane",
        "version": 1,
        "type": "Q8_0",
        "others": {},
    }
    assert after == before
    text = "The hen's 12345 turns"
    models = [load_text_model(files_of(tmp_path / place)) for place in ("hf", "out")]
    assert models[0].tokenizer.encode(text) == models[1].tokenizer.encode(text)


def test_a_tokenizer_that_is_named_goes_before_the_models_own(tmp_path):
    save(tmp_path / "hf", "llama")
    other = tmp_path / "other"
    other.mkdir()
    write_tokenizer(other, 280)
    files = resolve(ModelRef(model=str(tmp_path / "hf"), tokenizer=str(other)))
    write_packed(files, find_format("8"), tmp_path / "out")
    written = (tmp_path / "out" / "tokenizer.json").read_bytes()
    assert written == (other / "tokenizer.json").read_bytes()


def test_rows_that_do_not_suit_a_type_get_another_with_a_warning(tmp_path, caplog):
    save(tmp_path / "hf", "llama")
    kinds = write(tmp_path / "hf", "Q4K", tmp_path / "out")
    assert set(kinds.values()) == {"", "Q4_1", "Q5_1"}
    assert "21 matrices have rows that do not suit Q4_K and are packed as Q4_1" in caplog.text
    assert "2 matrices have rows that do not suit Q6_K and are packed as Q5_1" in caplog.text


def test_rows_that_suit_no_type_stay_as_they_are(tmp_path, caplog):
    save(tmp_path / "hf", "phi3-window")  # rows of 72 but for 96 in the last projection of an MLP
    kinds = write(tmp_path / "hf", "FP8", tmp_path / "out")
    assert {name for name in kinds if kinds[name]} == {
        f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(3)
    }
    assert "11 matrices have rows that do not suit FP8 and stay as they are" in caplog.text
    load(tmp_path / "out")
    save(tmp_path / "odd", "phi3-window", intermediate_size=72)
    with pytest.raises(LoadError, match="odd has no matrix that FP8 can be written of; choose"):
        write(tmp_path / "odd", "FP8", tmp_path / "no")


def test_a_stack_of_experts_is_packed_expert_by_expert(tmp_path):
    save(tmp_path / "hf", "qwen3-moe", moe_intermediate_size=64)
    path = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(path)
    for layer in range(3):
        stem = f"model.layers.{layer}.mlp.experts"
        parts = {
            part: torch.stack([tensors.pop(f"{stem}.{e}.{part}.weight") for e in range(8)])
            for part in ("gate_proj", "up_proj", "down_proj")
        }
        tensors[f"{stem}.gate_up_proj"] = torch.cat([parts["gate_proj"], parts["up_proj"]], 1)
        tensors[f"{stem}.down_proj"] = parts["down_proj"]
    save_file(tensors, path)
    for kind in ("Q8_0", "FP8"):
        kinds = write(tmp_path / "hf", kind, tmp_path / kind)
        name = "model.layers.1.mlp.experts.gate_up_proj"
        written = open_path(tmp_path / kind)
        assert kinds[name]
        assert [piece.dim() for piece in written.packed(name).pieces] == [2] * 8
        expected = [round_trip(expert, find_format(kind)) for expert in tensors[name]]
        assert torch.equal(written.tensor(name), torch.stack(expected))
        load(tmp_path / kind)


def test_what_another_tool_quantised_is_packed_again_with_a_warning(tmp_path, caplog):
    weights = torch.randn(64, 64).numpy()
    parts, expected = prequantised_files.gptq(weights)
    stem = "model.layers.0.mlp.up_proj."
    files = prequantised_files.write_llama(
        tmp_path / "hf",
        {stem + word: part for word, part in parts.items()},
        {"quant_method": "gptq", "bits": 4, "group_size": 32},
    )
    write_packed(files, find_format("Q8_0"), tmp_path / "out")
    written = open_path(tmp_path / "out").tensor(f"{stem}weight")
    assert torch.equal(written, round_trip(torch.from_numpy(expected), find_format("Q8_0")))
    assert "is quantised already and is packed again from that" in caplog.text


def test_weights_that_are_no_numbers_are_named_and_leave_nothing(tmp_path):
    model = tiny.make_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 3] = float("nan")
    model.save_pretrained(tmp_path / "hf")
    with pytest.raises(LoadError, match=r"layers.1.mlp.up_proj.weight cannot be quantised: the"):
        write(tmp_path / "hf", "Q8_0", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"hf"}


def test_a_name_that_is_taken_is_refused_and_stays(tmp_path):
    save(tmp_path / "hf", "llama")
    (tmp_path / "out").write_text("mine")
    with pytest.raises(LoadError, match="out exists; remove it, or choose another name with -o"):
        write(tmp_path / "hf", "Q8_0", tmp_path / "out")
    (tmp_path / "half.partial").mkdir()
    with pytest.raises(LoadError, match=r"half\.partial exists; remove it"):
        write(tmp_path / "hf", "Q8_0", tmp_path / "half")
    assert (tmp_path / "out").read_text() == "mine"
    assert (tmp_path / "half.partial").is_dir()
    with pytest.raises(LoadError, match="cannot be written: No such file"):
        write(tmp_path / "hf", "Q8_0", tmp_path / "no" / "out")


def test_a_gguf_file_has_no_config_to_go_along(tmp_path):
    path = gguf_files.write_gguf(tiny.make_model("llama"), tmp_path / "in.gguf", Type.Q8_0)
    with pytest.raises(LoadError, match=r"has no config.json.*-o NAME.gguf"):
        write(path, "Q8_0", tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"type": "Q9_9"}, "matrices in Q9_9, which this version does not know"),
        ({"others": {"lm_head.weight": "X"}}, "matrices in X, which this version does not know"),
        ({"type": "Q4_K"}, r"rows of 68 bytes, no whole number of Q4_K blocks \(144\)"),
    ],
)
def test_blocks_that_cannot_be_are_refused(changes, sentence, tmp_path):
    save(tmp_path / "hf", "llama")
    write(tmp_path / "hf", "Q8_0", tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= changes
    path.write_text(json.dumps(config))
    with pytest.raises(LoadError, match=sentence):
        load(tmp_path / "out")
