"""A configuration that claims far more than its files hold is refused before memory is taken."""

import json
from typing import Any

import pytest

from engine.config import EngineConfig
from engine.engine import load_engine
from engine.errors import LoadError
from engine.weights.bounds import check_num_weights
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelRef, resolve
from tests.engine.models.tiny import RECIPES, make_model, save_checkpoint


@pytest.mark.parametrize("name", RECIPES)
def test_no_family_has_fewer_weights_than_the_bound(name, tmp_path):
    save_checkpoint(name, tmp_path)
    checkpoint = open_checkpoint(resolve(ModelRef(model=str(tmp_path))))
    weights = sum(parameter.numel() for parameter in make_model(name).parameters())
    check_num_weights(checkpoint.config, [(weights // 2 + 1,)])  # twice as many may be claimed


CLAIMS: list[tuple[str, dict[str, Any]]] = [
    ("mistral", {"num_hidden_layers": 10**9}),
    ("llama", {"num_hidden_layers": 4000}),
    ("gemma3", {"num_hidden_layers": 10**9, "layer_types": None}),
    ("qwen3", {"head_dim": 10**9}),
    ("llama", {"vocab_size": 10**9}),
    ("llama", {"hidden_size": 4 * 10**9}),
    ("phi", {"intermediate_size": 10**9}),
    ("mixtral", {"num_local_experts": 10**9}),
    ("qwen3-moe", {"moe_intermediate_size": 10**9}),
]


@pytest.mark.parametrize(("name", "claim"), CLAIMS, ids=str)
def test_a_claim_beyond_the_files_is_refused_before_the_model_is_made(name, claim, tmp_path):
    save_checkpoint(name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **claim}))
    with pytest.raises(LoadError, match=r"do not belong together|<= 4096"):
        load_engine(resolve(ModelRef(model=str(tmp_path))), EngineConfig(device="cpu"))
