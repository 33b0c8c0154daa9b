"""GGUF files with experts: old and new layouts, their names, and the memory that reading takes."""

import tracemalloc
from itertools import islice

import msgspec
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.constants import MODEL_ARCH, MODEL_TENSORS, TENSOR_NAMES

from engine.errors import LoadError
from engine.models.registry import GGUF_FAMILIES
from engine.weights.checkpoint import open_checkpoint
from engine.weights.family import gguf_family
from engine.weights.files import ModelRef, resolve
from engine.weights.gguf_experts import split_experts
from engine.weights.gguf_metadata import GgufTensor, read_gguf
from engine.weights.names import hf_name
from tests.engine.models import gguf_moe, tiny
from tests.engine.models.gguf_files import write_gguf
from tests.engine.models.paged import PagedModel

TOLERANCE = 1e-4
# What gguf-py lists and no file of these families has: rotary frequencies of 2023.
UNUSED = {"rope_freqs", "blk.{bid}.attn_rot_embd"}


@pytest.mark.parametrize("kind", [Type.F32, Type.Q8_0], ids=lambda t: t.name)
@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
def test_a_file_with_a_tensor_for_each_expert_has_the_logits_of_its_weights(
    name, kind, tmp_path, load_model
):
    model = tiny.make_model(name, moe_intermediate_size=64)
    path = write_gguf(model, tmp_path / "model.gguf", kind, stacks_experts=False)
    assert "blk.0.ffn_down.3.weight" in read_gguf([path]).tensors
    expected = tiny.reference_logits(model, tiny.prompts()[2])
    actual = PagedModel(load_model(path)).prefill(tiny.prompts()[2], chunk=16)
    assert (actual - expected).abs().max() <= TOLERANCE


def test_both_layouts_give_the_same_tensors(tmp_path):
    model = tiny.make_model("mixtral")
    new, old = (
        open_checkpoint(resolve(ModelRef(model=str(path))))
        for path in (
            write_gguf(model, tmp_path / "new.gguf", Type.Q8_0),
            write_gguf(model, tmp_path / "old.gguf", Type.Q8_0, stacks_experts=False),
        )
    )
    assert new.names() == old.names()
    assert new.config == old.config
    for name in new.names():
        assert new.tensor(name).equal(old.tensor(name)), name


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        (MODEL_ARCH.LLAMA, "llama"),
        (MODEL_ARCH.QWEN3MOE, "qwen3moe"),
        (MODEL_ARCH.SMOLLM3, "smollm3"),
        (MODEL_ARCH.OLMO2, "olmo2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_tensor_that_gguf_py_lists_has_a_hugging_face_name(arch, name):
    names = gguf_family(name).names
    assert name in GGUF_FAMILIES
    for listed in {TENSOR_NAMES[tensor] for tensor in MODEL_TENSORS[arch]} - UNUSED:
        gguf_name = listed.format(bid=1).replace("_exps", ".0") + ".weight"
        assert hf_name(gguf_name, names) != gguf_name


def test_the_parts_of_a_stacked_tensor_lie_one_after_another(tmp_path):
    stacked = GgufTensor(
        "blk.3.ffn_up_exps.weight", Type.Q8_0, (4, 6, 64), tmp_path, 1000, 4 * 6 * 68
    )
    parts = list(split_experts([stacked]))
    assert [part.name for part in parts] == [f"blk.3.ffn_up.{i}.weight" for i in range(4)]
    assert {part.shape for part in parts} == {(6, 64)}
    assert [part.offset for part in parts] == [1000, 1408, 1816, 2224]
    assert {part.num_bytes for part in parts} == {408}


@pytest.mark.parametrize(
    ("shape", "num_bytes"),
    [((6, 64), 1536), ((10**9, 4, 0), 0), ((5000, 1, 1), 20_000), ((0, 4, 4), 0)],
    ids=["flat", "a billion empty ones", "too many", "none"],
)
def test_what_is_no_stack_of_experts_keeps_its_name_and_is_refused(shape, num_bytes, tmp_path):
    tensor = GgufTensor("blk.3.ffn_up_exps.weight", Type.F32, shape, tmp_path, 0, num_bytes)
    assert list(islice(split_experts([tensor]), 2)) == [tensor]


def test_reading_a_stacked_tensor_unpacks_an_expert_at_a_time(tmp_path):
    model = tiny.make_model("mixtral", num_local_experts=64, num_hidden_layers=1)
    path = write_gguf(model, tmp_path / "model.gguf", Type.Q8_0)
    checkpoint = open_checkpoint(resolve(ModelRef(model=str(path))))
    peaks = []
    for expert in (61, 62, 63):
        tracemalloc.start()
        part = checkpoint.tensor(f"model.layers.0.mlp.experts.{expert}.up_proj.weight")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert part.shape == (96, 64)
    # numpy's own memory while it unpacks; all 64 experts would be 1.5 MiB. The least, for the trace
    # has what other threads of the tests take meanwhile.
    assert min(peaks) < 300_000


def test_a_layer_without_a_router_is_a_load_error_in_mixtral(tmp_path, load_model):
    model = tiny.make_model("mixtral")
    del model.model.layers[1].mlp.gate.weight
    path = write_gguf(model, tmp_path / "model.gguf", Type.F32)
    with pytest.raises(LoadError, match=r"has no tensor model.layers.1.*gate.weight"):
        load_model(path)


@pytest.mark.parametrize("name", gguf_moe.RECIPES)
def test_a_file_says_what_config_json_says(name, tmp_path, checkpoints):
    path = write_gguf(tiny.make_model(name), tmp_path / "model.gguf", Type.F32)
    from_file, from_json = (
        open_checkpoint(resolve(ModelRef(model=str(place)))).config
        for place in (path, checkpoints(name))
    )
    assert approximate(from_file) == approximate(from_json)


def approximate(config):
    """All that matters: a file's norm_eps is float32, and its tokenizer ends with more tokens."""
    values = msgspec.to_builtins(msgspec.structs.replace(config, eos_token_ids=()))
    rotary_dim = config.num_turned
    windows = [config.window(layer) for layer in range(config.num_layers)]
    return {
        **values,
        "norm_eps": pytest.approx(config.norm_eps),
        "rotary_dim": rotary_dim,
        "windows": windows,
    }
