"""Which model serves a name."""

import pytest

from api.directory import EMBEDS, GENERATES, Directory
from api.errors import ApiError
from workers.contract import Heartbeat, ModelCard


def card(name, task="generate"):
    return ModelCard(name=name, queue="q", context_length=8, vocab_size=8, created_s=0, task=task)


def beat(model, *, is_draining=False):
    return Heartbeat(
        worker="w",
        model=model,
        running=1,
        waiting=2,
        kv_blocks_used=3,
        kv_blocks_total=4,
        is_draining=is_draining,
    )


def test_the_only_model_serves_any_name():
    assert Directory((card("a/b"),)).resolve("gpt-4o", strict=False).name == "a/b"


def test_a_model_whose_workers_are_gone_leaves_any_name_to_the_live_one():
    directory = Directory((card("old"), card("new")), (beat("new"),))
    assert directory.resolve("gpt-4o", strict=False).name == "new"


@pytest.mark.parametrize("strict", [False, True])
def test_an_exact_name_is_served(strict):
    assert Directory((card("a"), card("b"))).resolve("b", strict=strict).name == "b"


@pytest.mark.parametrize(
    ("names", "strict", "code"),
    [
        ((), False, "no_workers"),
        (("a",), True, "model_not_found"),
        ("ab", False, "model_not_found"),
    ],
    ids=["none known", "strict", "several"],
)
def test_a_name_that_no_model_stands_for_is_refused(names, strict, code):
    with pytest.raises(ApiError) as caught:
        Directory(tuple(map(card, names))).resolve("x", strict=strict)
    assert caught.value.code == code


def test_gauges_are_summed_per_model():
    directory = Directory((card("b"), card("a")), (beat("a"), beat("a"), beat("b")))
    first, second = directory.gauges()
    assert (first["id"], first["workers"], first["running"], first["waiting"]) == ("a", 2, 2, 4)
    assert (second["id"], second["kv_blocks_used"]) == ("b", 3)


def test_a_fleet_that_drains_is_not_ready():
    assert not Directory((card("a"),), (beat("a", is_draining=True),)).is_ready
    assert Directory((card("a"),), (beat("a"),)).is_ready


def test_any_name_means_the_one_model_of_the_task():
    fleet = Directory((card("text"), card("vectors", "embed")))
    assert fleet.resolve("gpt-4o", strict=False, tasks=GENERATES).name == "text"
    assert fleet.resolve("ada-002", strict=False, tasks=EMBEDS).name == "vectors"
    with pytest.raises(ApiError) as caught:
        fleet.resolve("gpt-4o", strict=False)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("task", "wanted", "hint"),
    [
        ("generate", EMBEDS, "--task embed"),
        ("embed", GENERATES, "/v1/embeddings"),
        ("score", EMBEDS, "/v1/rerank"),
    ],
)
@pytest.mark.parametrize("name", ["m", "any"])
def test_a_model_of_another_task_is_refused_with_what_to_do(task, wanted, hint, name):
    with pytest.raises(ApiError) as caught:
        Directory((card("m", task),)).resolve(name, strict=False, tasks=wanted)
    assert (caught.value.code, caught.value.param) == ("unsupported_model", "model")
    assert hint in caught.value.message
