"""What a model is for, by its files and by what is asked for."""

import json

import pytest
from gguf import GGUFWriter, PoolingType

from engine.errors import LoadError
from engine.weights.files import ModelFiles
from engine.weights.task import find_task

MODULES = {"embed": "sentence_transformers.models.Pooling"}
MODULES["score"] = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"


@pytest.fixture
def files(tmp_path):
    def write(architecture, modules=""):
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
        if modules:
            listed = [{"type": MODULES[modules], "path": f"1_{modules}"}]
            (tmp_path / "modules.json").write_text(json.dumps(listed))
        return ModelFiles(kind="plain", name="tiny", directory=tmp_path, weights=())

    return write


@pytest.mark.parametrize(
    ("architecture", "modules", "task"),
    [
        ("BertModel", "", "embed"),
        ("BertForMaskedLM", "", "embed"),
        ("XLMRobertaModel", "embed", "embed"),
        ("XLMRobertaForSequenceClassification", "", "score"),
        ("Qwen3ForCausalLM", "", "generate"),
        ("Qwen3ForCausalLM", "embed", "embed"),
        ("Qwen3ForCausalLM", "score", "score"),
        ("MistralModel", "", "embed"),
        ("Qwen3ForSequenceClassification", "", "score"),
        ("NeverHeardOfForCausalLM", "", "generate"),
        ("NeverHeardOfModel", "", "generate"),
    ],
)
def test_the_files_say_what_a_model_is_for(architecture, modules, task, files):
    assert find_task(files(architecture, modules), "auto") == task


@pytest.mark.parametrize(
    ("architecture", "asked"),
    [
        ("Qwen3ForCausalLM", "embed"),
        ("Qwen3ForCausalLM", "score"),
        ("LlamaForCausalLM", "embed"),
        ("BertForSequenceClassification", "embed"),
    ],
)
def test_what_is_asked_for_goes_before(architecture, asked, files):
    assert find_task(files(architecture), asked) == asked


@pytest.mark.parametrize(
    ("architecture", "asked", "possible"),
    [
        ("BertModel", "generate", "only for embed"),
        ("BertModel", "score", "only for embed"),
        ("LlamaForCausalLM", "score", "only for generate or embed"),
        ("BertForSequenceClassification", "generate", "only for score or embed"),
    ],
)
def test_what_the_files_are_not_for_is_refused(architecture, asked, possible, files):
    with pytest.raises(LoadError, match=possible):
        find_task(files(architecture), asked)


@pytest.fixture
def packed(tmp_path):
    def write(pooling=None):
        writer = GGUFWriter(path := tmp_path / "tiny.gguf", "qwen3")
        if pooling is not None:
            writer.add_pooling_type(pooling)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return ModelFiles(kind="gguf", name="tiny", directory=tmp_path, weights=(path,))

    return write


@pytest.mark.parametrize(
    ("pooling", "task"),
    [
        (None, "generate"),
        (PoolingType.NONE, "generate"),
        (PoolingType.MEAN, "embed"),
        (PoolingType.CLS, "embed"),
        (PoolingType.LAST, "embed"),
        (PoolingType.RANK, "generate"),
    ],
    ids=["not-said", "none", "mean", "cls", "last", "rank"],
)
def test_a_gguf_file_that_is_pooled_is_for_vectors(pooling, task, packed):
    assert find_task(packed(pooling), "auto") == task


def test_packed_files_may_be_asked_for_another_task(packed):
    files = packed(PoolingType.LAST)
    assert find_task(files, "generate") == "generate"
    files = packed()
    assert find_task(files, "embed") == "embed"
    with pytest.raises(LoadError, match="only for generate or embed"):
        find_task(files, "score")
