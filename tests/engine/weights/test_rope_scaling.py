"""Which rope scaling is taken and which is refused."""

import pytest

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.weights.rope_scaling import (
    Yarn,
    check_rope_factors,
    load_rope_scaling,
    parse_rope_scaling,
    rope_switch,
)

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1],
    "long_factor": [2.0, 5.0],
    "original_max_position_embeddings": 4096,
}


@pytest.mark.parametrize("values", [{}, {"rope_type": "default"}, {"type": "default"}], ids=str)
def test_default_is_no_scaling(values):
    assert parse_rope_scaling(values, "config.json") is None


def test_the_old_key_type_means_the_same():
    plain = parse_rope_scaling({"type": "linear", "factor": 2}, "config.json")
    assert plain == parse_rope_scaling({"rope_type": "linear", "factor": 2.0}, "config.json")


def test_phi_3s_first_name_for_longrope_means_the_same():
    plain = parse_rope_scaling({**LONG, "rope_type": "su"}, "config.json")
    assert plain == parse_rope_scaling(LONG, "config.json")


def model(rope_scaling, head_dim=4):
    return ModelConfig(
        architecture="Phi3ForCausalLM",
        vocab_size=8,
        hidden_size=head_dim,
        intermediate_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=head_dim,
        context_length=131072,
        rope_scaling=rope_scaling and parse_rope_scaling(rope_scaling, "config.json"),
    )


@pytest.mark.parametrize(
    ("values", "context_length", "switch"),
    [
        (LONG, 131072, 4096),
        (LONG, 4097, 4096),
        (LONG, 4096, 0),
        ({"rope_type": "linear", "factor": 2.0}, 131072, 0),
        (None, 131072, 0),
    ],
    ids=["long", "one-token-more", "never-that-long", "linear", "plain"],
)
def test_only_longrope_has_a_switch_and_only_where_sequences_reach_it(
    values, context_length, switch
):
    assert rope_switch(model(values), context_length) == switch


def test_there_must_be_a_factor_for_each_frequency():
    check_rope_factors(model(LONG), "tiny")
    with pytest.raises(LoadError, match=r"tiny has 2 short rope factors, but .* 8 dim.* takes 4"):
        check_rope_factors(model(LONG, head_dim=8), "tiny")
    with pytest.raises(LoadError, match="tiny has 1 long rope factors"):
        check_rope_factors(model({**LONG, "long_factor": [1.0]}), "tiny")


def test_the_plain_form_leads_back_to_the_typed_one():
    values = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    scaling = load_rope_scaling(parse_rope_scaling(values, "config.json"))
    assert scaling == Yarn(factor=4.0, original_max_position_embeddings=64)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "'dynamic', which is not supported"),
        ({"rope_type": ["linear"]}, r"\['linear'\], which is not supported"),
        ({"rope_type": "longrope"}, "missing required field `short_factor`"),
        ({**LONG, "long_factor": [1.0, 0.0]}, r"> 0.0 - at `\$.long_factor"),
        ({**LONG, "original_max_position_embeddings": 0}, "original_max_position_embeddings"),
        ({"rope_type": "linear"}, "missing required field `factor`"),
        ({"rope_type": "linear", "factor": -1.0}, r"factor"),
        ({"rope_type": "linear", "factor": "two"}, r"Expected `float`, got `str` - at `\$.factor`"),
        ({k: v for k, v in LLAMA3.items() if k != "low_freq_factor"}, "`low_freq_factor`"),
        ({**LLAMA3, "high_freq_factor": 1.0}, "`high_freq_factor` must be greater"),
    ],
    ids=[
        "dynamic",
        "a-list",
        "longrope",
        "longrope-factor",
        "longrope-length",
        "no-factor",
        "negative",
        "a-word",
        "llama3-key",
        "llama3-order",
    ],
)
def test_what_cannot_be_used_is_refused_by_name(values, says):
    with pytest.raises(LoadError, match=says) as error:
        parse_rope_scaling(values, "x/config.json")
    assert "x/config.json" in str(error.value)
