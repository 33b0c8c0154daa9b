"""How many blocks an engine gets."""

import pytest

from engine.capacity import (
    asked_bytes,
    available_bytes,
    check_sizes,
    cpu_budget_bytes,
    size_cache,
    total_bytes,
)
from engine.config import EngineConfig
from engine.errors import LoadError
from tests.engine.hash_model import model_config

MODEL = model_config(context_length=100)


def size(budget, *, can_exceed=False, **changes):
    config = EngineConfig(**{"max_seqs": 4, "block_size": 8, **changes})
    return tuple(size_cache(config, MODEL, 10, budget, can_exceed=can_exceed))


@pytest.mark.parametrize(
    ("budget", "changes", "expected"),
    [
        (10**9, {}, (4 * 13, 8, 100)),
        (10**9, {"can_exceed": True}, (10**8, 8, 100)),
        (305, {}, (30, 8, 100)),
        (55, {}, (5, 8, 40)),
        (10**9, {"max_model_len": 50}, (4 * 7, 8, 50)),
        (10**9, {"paged_attn": False}, (4, 100, 100)),
        (10**9, {"paged_attn": False, "can_exceed": True}, (4, 100, 100)),
        (25, {"paged_attn": False, "max_model_len": 60}, (2, 60, 60)),
    ],
    ids=[
        "enough for all contexts",
        "more than that for the prefix cache",
        "a budget",
        "less than a context",
        "shorter contexts",
        "a block per sequence",
        "a block per sequence and no more",
        "fewer blocks than sequences",
    ],
)
def test_the_cache_gets_what_the_budget_holds(budget, changes, expected):
    assert size(budget, **changes) == expected


def test_no_room_for_one_block_stops_the_start():
    with pytest.raises(LoadError, match="may take 9 bytes, but one block of 8 tokens takes 10"):
        size(9)


def test_the_available_memory_is_the_systems(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:   500 kB\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 500 * 1024


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max\n", 500 * 1024), ("300000\n", 200000), ("50000\n", 0), ("9999999999\n", 500 * 1024)],
    ids=["none", "less than the system", "exceeded", "more than the system"],
)
def test_a_containers_limit_counts(tmp_path, limit, expected):
    (tmp_path / "meminfo").write_text("MemAvailable: 500 kB\n")
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text("100000\n")
    (tmp_path / "memory.stat").write_text("inactive_file 0\nactive_file 0\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == expected


def test_a_containers_page_cache_can_be_used(tmp_path):
    """A model just read fills it, and counts as the container's."""
    (tmp_path / "meminfo").write_text("MemAvailable: 900 kB\n")
    (tmp_path / "memory.max").write_text("500000\n")
    (tmp_path / "memory.current").write_text("490000\n")
    (tmp_path / "memory.stat").write_text(
        "anon 90000\nfile 400000\ninactive_file 250000\nactive_file 100000\n"
    )
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 10_000 + 350_000


def test_where_there_is_no_meminfo_the_physical_memory_counts(tmp_path):
    assert available_bytes(tmp_path / "none", tmp_path) > 1 << 28


def test_the_share_of_the_cpu_is_a_quarter():
    assert 0.2 < cpu_budget_bytes() / available_bytes() < 0.3


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max\n", 900 * 1024), ("300000\n", 300000), ("9999999999\n", 900 * 1024)],
    ids=["no limit", "less than the system", "more than the system"],
)
def test_all_of_the_memory_is_the_systems_or_the_containers(tmp_path, limit, expected):
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable: 500 kB\n")
    assert total_bytes(tmp_path / "meminfo", tmp_path) == 900 * 1024
    (tmp_path / "memory.max").write_text(limit)
    assert total_bytes(tmp_path / "meminfo", tmp_path) == expected


def test_where_there_is_no_meminfo_all_is_the_physical_memory(tmp_path):
    assert total_bytes(tmp_path / "none", tmp_path) >= available_bytes()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0),
        ({"kv_cache_bytes": 777}, 777),
        ({"kv_cache_tokens": 16}, 200),
        ({"kv_cache_tokens": 17}, 300),
        ({"kv_cache_tokens": 1}, 100),
    ],
)
def test_a_cache_of_so_many_tokens_has_blocks_for_all_of_them(settings, expected):
    assert asked_bytes(EngineConfig(**settings), 8, 100) == expected


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"kv_cache_bytes": 1, "kv_cache_tokens": 1},
            "--pa-gpu-mem and --pa-ctxt-len each say how large the KV cache is; "
            "leave all but one out.",
        ),
        ({"kv_cache_bytes": 1, "memory_usage": 0.5}, "--pa-gpu-mem and --pa-gpu-mem-usage each"),
        ({"kv_cache_tokens": 9, "memory_usage": 0.9}, "--pa-ctxt-len and --pa-gpu-mem-usage each"),
        (
            {"kv_cache_bytes": 1, "kv_cache_tokens": 1, "memory_usage": 1.0},
            "--pa-gpu-mem and --pa-ctxt-len and --pa-gpu-mem-usage each",
        ),
        ({"memory_usage": 1.5}, "up to 1, but 1.5 is asked for."),
        ({"memory_usage": -0.1}, "up to 1, but -0.1 is asked for."),
        ({"kv_cache_tokens": 9, "paged_attn": False}, "--no-paged-attn"),
    ],
)
def test_sizes_that_contradict_each_other_stop_the_start(settings, sentence):
    with pytest.raises(LoadError) as caught:
        check_sizes(EngineConfig(**settings))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kv_cache_bytes": 1},
        {"kv_cache_tokens": 1},
        {"memory_usage": 1.0},
        {"kv_cache_bytes": 1, "paged_attn": False},
        {"memory_usage": 0.5, "paged_attn": False},
    ],
    ids=str,
)
def test_one_size_is_enough(settings):
    check_sizes(EngineConfig(**settings))
