"""A worker's settings, and what the engine and the model finder get of them."""

from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.text.template_files import TemplateChoice
from engine.weights.files import ModelRef
from workers.config import WorkerConfig, engine_config, model_ref, template_choice
from workers.environment import SettingError, load, settings_of


def test_the_defaults_serve_the_built_in_model():
    config = load(WorkerConfig, {})
    assert model_ref(config).model == "builtin"
    assert engine_config(config) == EngineConfig()


def test_each_setting_reaches_the_engine():
    config = load(
        WorkerConfig,
        {
            "TRAMONTANE_DEVICE": "cpu",
            "TRAMONTANE_DTYPE": "bfloat16",
            "TRAMONTANE_MAX_SEQS": "7",
            "TRAMONTANE_MAX_MODEL_LEN": "512",
            "TRAMONTANE_MAX_NUM_BATCHED_TOKENS": "99",
            "TRAMONTANE_BLOCK_SIZE": "32",
            "TRAMONTANE_KV_CACHE_MB": "3",
            "TRAMONTANE_KV_CACHE_TOKENS": "1000",
            "TRAMONTANE_MEMORY_USAGE": "0.5",
            "TRAMONTANE_PREFIX_CACHE_N": "0",
            "TRAMONTANE_PAGED_ATTN": "false",
            "TRAMONTANE_NUM_THREADS": "2",
            "TRAMONTANE_ISQ": "Q4K",
            "TRAMONTANE_IMATRIX": "a.dat",
            "TRAMONTANE_TOPOLOGY": "b.yml",
        },
    )
    assert engine_config(config) == EngineConfig(
        device="cpu",
        dtype="bfloat16",
        max_seqs=7,
        max_model_len=512,
        max_num_batched_tokens=99,
        block_size=32,
        kv_cache_bytes=3_000_000,
        kv_cache_tokens=1000,
        memory_usage=0.5,
        enable_prefix_cache=False,
        paged_attn=False,
        num_threads=2,
        isq="Q4K",
        imatrix="a.dat",
        topology="b.yml",
    )


@pytest.mark.parametrize(("short", "name"), [("f16", "float16"), ("bf16", "bfloat16")])
def test_a_short_dtype_is_the_long_one(short, name):
    assert engine_config(load(WorkerConfig, {"TRAMONTANE_DTYPE": short})).dtype == name


def test_each_setting_reaches_the_model_finder():
    config = load(
        WorkerConfig,
        {
            "TRAMONTANE_MODEL": "org/name",
            "TRAMONTANE_KIND": "ggml",
            "TRAMONTANE_MODEL_FILE": "a.bin",
            "TRAMONTANE_TOKEN_SOURCE": "none",
            "TRAMONTANE_TOKENIZER": "org/tokenizer",
            "TRAMONTANE_GQA": "8",
            "TRAMONTANE_ARCH": "llama",
        },
    )
    assert model_ref(config) == ModelRef(
        model="org/name",
        kind="ggml",
        file="a.bin",
        token_source="none",
        tokenizer="org/tokenizer",
        gqa=8,
        arch="llama",
    )


def test_the_guide_s_flags_have_their_names():
    flags = {item.field: item.flag for item in settings_of(WorkerConfig)}
    assert flags["model_file"] == "--file"
    assert flags["paged_attn"] == "--no-paged-attn"
    assert flags["block_size"] == "--pa-blk-size"
    assert flags["kv_cache_mb"] == "--pa-gpu-mem"
    variables = {item.field: item.variable for item in settings_of(WorkerConfig)}
    assert (variables["redis_url"], variables["log"]) == ("REDIS_URL", "TRAMONTANE_LOG")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TRAMONTANE_MAX_SEQS", "0"),
        ("TRAMONTANE_MAX_SEQS", "many"),
        ("TRAMONTANE_LEASE_S", "0"),
        ("TRAMONTANE_LOG", "loud"),
        ("TRAMONTANE_KIND", "toml"),
        ("TRAMONTANE_GQA", "0"),
        ("TRAMONTANE_ENGINE", "no colon"),
    ],
)
def test_a_bad_value_is_refused_by_name(variable, value):
    with pytest.raises(SettingError, match=variable):
        load(WorkerConfig, {variable: value})


def test_the_templates_that_a_user_sets_reach_the_text_side():
    settings = {"TRAMONTANE_CHAT_TEMPLATE": "chatml", "TRAMONTANE_JINJA_EXPLICIT": "a.jinja"}
    choice = template_choice(load(WorkerConfig, settings))
    assert choice == TemplateChoice(given="chatml", explicit="a.jinja")
    assert template_choice(load(WorkerConfig, {})) == TemplateChoice()


@pytest.mark.parametrize(
    ("given", "environ", "folder"),
    [
        ("", {}, ""),
        ("", {"XDG_CACHE_HOME": "/fast"}, "/fast/tramontane/kernels"),
        ("", {"XDG_CACHE_HOME": "relative"}, ""),
        ("/mine", {"XDG_CACHE_HOME": "/fast"}, "/mine"),
        ("~/mine", {}, str(Path.home() / "mine")),
    ],
)
def test_kernels_are_kept_where_the_user_or_else_the_environment_says(given, environ, folder):
    config = load(WorkerConfig, {"TRAMONTANE_KERNEL_CACHE": given})
    assert engine_config(config, environ).kernel_cache == folder
