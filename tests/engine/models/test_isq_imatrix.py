"""Importance matrices at load and in files: the same weights by both ways, and who takes none."""

import re

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file

from engine.config import EngineConfig
from engine.errors import LoadError
from engine.quant.q2_k import Q2_K
from engine.quant.q3_k import Q3_K
from engine.quant.registry import find_format
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from engine.weights.gguf_mixture import find_scheme
from engine.weights.gguf_writer import open_source, write_gguf
from engine.weights.isq import requested_isq
from engine.weights.isq_settings import check_isq
from engine.weights.names import gguf_name
from engine.weights.packed_writer import write_packed
from tests.engine.models import gguf_files, tiny
from tests.engine.models.test_gguf_families import WIDE
from tests.engine.weights import imatrix_files
from tests.engine.weights.tiny_tokenizer import write_tokenizer

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)


def quantised(path, **settings):
    request = requested_isq(EngineConfig(**settings), CPU)
    assert request is not None
    return request.apply(open_checkpoint(refs(path)))


def refs(path):
    return resolve(ModelRef(model=str(path)))


def packed(checkpoint):
    """The bytes of every packed matrix."""
    found = {}
    for name in sorted(checkpoint.names()):
        if (tensor := checkpoint.packed(name)) is not None:
            found[name] = torch.cat([piece.clone() for piece in tensor.pieces])
    return found


@pytest.fixture
def model_and_means(tmp_path):
    """A checkpoint, and random mean squares for the matrices of its layers."""
    tiny.make_model("qwen3", **WIDE).save_pretrained(tmp_path / "hf")
    write_tokenizer(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    by_input: dict[str, np.ndarray] = {}
    means = {}
    for name, weight in tensors.items():
        if weight.dim() == 2 and "layers" in name:
            key = re.sub("[qkv]_proj", "qkv", re.sub("(gate|up)_proj", "up", name))
            values = RNG.lognormal(0, 2, weight.shape[1]).astype(np.float32)
            means[gguf_name(name)] = by_input.setdefault(key, values)
    return tmp_path / "hf", means


@pytest.mark.parametrize("write", [imatrix_files.write_legacy, imatrix_files.write_gguf])
def test_a_model_is_the_file_that_quantize_writes_with_the_same_imatrix(
    write, model_and_means, tmp_path
):
    path, means = model_and_means
    imatrix = str(write(tmp_path / "imatrix", means))
    ours = packed(quantised(path, isq="Q4K", imatrix=imatrix))
    write_gguf(open_source(refs(path)), find_scheme("Q4K"), tmp_path / "m.gguf", imatrix=imatrix)
    theirs = packed(open_checkpoint(refs(tmp_path / "m.gguf")))
    plain = packed(quantised(path, isq="Q4K"))
    assert ours.keys() == theirs.keys() == plain.keys()
    for name, blocks in ours.items():
        assert blocks.equal(theirs[name]), name
        assert blocks.equal(plain[name]) == (
            name in ("model.embed_tokens.weight", "lm_head.weight")
        )


@pytest.mark.parametrize("is_stacked", [False, True], ids=["apart", "stacked"])
def test_each_expert_has_its_own_row(is_stacked, tmp_path):
    model = tiny.make_model("mixtral", **WIDE)
    model.save_pretrained(tmp_path / "hf", save_original_format=not is_stacked)
    means = {"blk.1.ffn_down_exps.weight": RNG.lognormal(0, 2, (4, 256)).astype(np.float32)}
    imatrix = str(imatrix_files.write_gguf(tmp_path / "imatrix.gguf", means))
    blocks = packed(quantised(tmp_path / "hf", isq="Q3K", imatrix=imatrix))
    downs = model.model.layers[1].mlp.experts.down_proj
    for expert, (row, weight) in enumerate(zip(*means.values(), downs, strict=True)):
        expected = Q3_K.quantize(weight, torch.from_numpy(row))
        assert not expected.equal(Q3_K.quantize(weight))
        if is_stacked:
            stack = blocks["model.layers.1.mlp.experts.down_proj"].view(4, *expected.shape)
            assert stack[expert].equal(expected)
        else:
            name = f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight"
            assert blocks[name].equal(expected)


def test_experts_of_a_file_have_their_own_rows_in_another_file(tmp_path):
    model = tiny.make_model("mixtral", **WIDE)
    gguf_files.write_gguf(model, tmp_path / "f32.gguf", Type.F32)
    rows = RNG.lognormal(0, 2, (4, 256)).astype(np.float32)
    means = {"blk.0.ffn_down_exps.weight": rows}
    imatrix = str(imatrix_files.write_gguf(tmp_path / "imatrix.gguf", means))
    source = open_source(refs(tmp_path / "f32.gguf"))
    write_gguf(source, find_scheme("Q2K"), tmp_path / "q2.gguf", imatrix=imatrix)
    blocks = packed(open_checkpoint(refs(tmp_path / "q2.gguf")))
    downs = model.model.layers[0].mlp.experts.down_proj
    for expert, (row, weight) in enumerate(zip(rows, downs, strict=True)):
        expected = Q2_K.quantize(weight, torch.from_numpy(row))
        assert blocks[f"model.layers.0.mlp.experts.{expert}.down_proj.weight"].equal(expected)


def test_what_an_imatrix_lacks_is_said(model_and_means, tmp_path, caplog):
    path, means = model_and_means
    del means["blk.1.ffn_down.weight"]
    imatrix = str(imatrix_files.write_legacy(tmp_path / "imatrix.dat", means))
    quantised(path, isq="Q4K", imatrix=imatrix)
    assert "has nothing on 1 matrix (model.layers.1.mlp.down_proj.weight)" in caplog.text


def test_an_imatrix_of_another_model_is_refused(model_and_means, tmp_path):
    path, means = model_and_means
    means["blk.2.ffn_down.weight"] = means["blk.1.ffn_down.weight"]
    imatrix = str(imatrix_files.write_legacy(tmp_path / "imatrix.dat", means))
    with pytest.raises(LoadError, match=r"has an entry for model.layers.2.mlp.down_proj.weight"):
        quantised(path, isq="Q4K", imatrix=imatrix)
    source = open_source(refs(path))
    with pytest.raises(LoadError, match=r"has an entry for blk.2.ffn_down.weight, which"):
        write_gguf(source, find_scheme("Q4K"), tmp_path / "out.gguf", imatrix=imatrix)
    means["blk.0.ffn_down.weight"] = np.ones(3, np.float32)
    del means["blk.2.ffn_down.weight"]
    imatrix_files.write_legacy(tmp_path / "imatrix.dat", means)
    with pytest.raises(LoadError, match=r"blk.0.ffn_down.weight has 3 values, and this one's has"):
        write_gguf(source, find_scheme("Q4K"), tmp_path / "out.gguf", imatrix=imatrix)
    assert not list(tmp_path.glob("out.gguf*"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"isq": "Q8_0"}, "Q8_0 has no use for an imatrix; the types that have are 2, 3, 4, 5, 6"),
        ({"isq": "HQQ4"}, "HQQ4 has no use for an imatrix"),
        ({}, "without --isq there is no use for an imatrix"),
        ({"isq": "Q4K", "imatrix": "/no/such.dat"}, "the imatrix /no/such.dat is not there"),
        ({"isq": "Q4"}, "ISQ type Q4 unknown, choose one of `2`"),
        ({"topology": "/no/such.yml"}, "the topology /no/such.yml cannot be read"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_before_a_model_is_there(settings, sentence):
    with pytest.raises(LoadError, match=sentence):
        check_isq(EngineConfig(**{"imatrix": __file__, **settings}))


def test_a_topology_may_be_what_takes_the_imatrix(tmp_path):
    topology = tmp_path / "topology.yml"
    topology.write_text("0: {isq: Q2K}")
    config = EngineConfig(isq="Q8_0", imatrix=__file__, topology=str(topology))
    assert check_isq(config).types() == {"Q2K"}


def test_a_file_without_a_type_that_takes_an_imatrix_is_refused(model_and_means, tmp_path):
    path, means = model_and_means
    imatrix = str(imatrix_files.write_legacy(tmp_path / "imatrix.dat", means))
    with pytest.raises(LoadError, match=r"no tensor is to be of a type that has a use"):
        write_gguf(
            open_source(refs(path)), find_scheme("8"), tmp_path / "out.gguf", imatrix=imatrix
        )


@pytest.mark.parametrize("kind", ["Q2K", "4", "Q8_0", "FP8", "MXFP4"])
def test_a_directory_that_quantize_writes_is_what_isq_makes(kind, model_and_means, tmp_path):
    path, means = model_and_means
    imatrix = ""
    if kind in ("Q2K", "4"):
        imatrix = str(tmp_path / "imatrix.dat")
        imatrix_files.write_legacy(tmp_path / "imatrix.dat", means)
    write_packed(refs(path), find_format(kind), tmp_path / "out", imatrix=imatrix)
    expected = packed(quantised(path, isq=kind, imatrix=imatrix))
    actual = packed(open_checkpoint(refs(tmp_path / "out")))
    assert actual.keys() == expected.keys()
    for name, rows in expected.items():
        assert torch.equal(actual[name], rows), name


def test_a_directory_of_a_type_without_a_use_for_an_imatrix_is_refused(model_and_means, tmp_path):
    path, means = model_and_means
    imatrix_files.write_legacy(tmp_path / "imatrix.dat", means)
    with pytest.raises(LoadError, match="no matrix is to be of a type that has a use for the ima"):
        write_packed(
            refs(path),
            find_format("Q8_0"),
            tmp_path / "out",
            imatrix=str(tmp_path / "imatrix.dat"),
        )
