"""Which rope scaling is taken and which is refused."""

import pytest

from engine.errors import LoadError
from engine.weights.rope_scaling import Yarn, load_rope_scaling, parse_rope_scaling

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize("values", [{}, {"rope_type": "default"}, {"type": "default"}], ids=str)
def test_default_is_no_scaling(values):
    assert parse_rope_scaling(values, "config.json") is None


def test_the_old_key_type_means_the_same():
    plain = parse_rope_scaling({"type": "linear", "factor": 2}, "config.json")
    assert plain == parse_rope_scaling({"rope_type": "linear", "factor": 2.0}, "config.json")


def test_the_plain_form_leads_back_to_the_typed_one():
    values = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    scaling = load_rope_scaling(parse_rope_scaling(values, "config.json"))
    assert scaling == Yarn(factor=4.0, original_max_position_embeddings=64)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "'dynamic', which is not supported"),
        ({"rope_type": "longrope"}, "'longrope', which is not supported"),
        ({"rope_type": "linear"}, "missing required field `factor`"),
        ({"rope_type": "linear", "factor": -1.0}, r"factor"),
        ({"rope_type": "linear", "factor": "two"}, r"Expected `float`, got `str` - at `\$.factor`"),
        ({k: v for k, v in LLAMA3.items() if k != "low_freq_factor"}, "`low_freq_factor`"),
        ({**LLAMA3, "high_freq_factor": 1.0}, "`high_freq_factor` must be greater"),
    ],
    ids=["dynamic", "longrope", "no-factor", "negative", "a-word", "llama3-key", "llama3-order"],
)
def test_what_cannot_be_used_is_refused_by_name(values, says):
    with pytest.raises(LoadError, match=says) as error:
        parse_rope_scaling(values, "x/config.json")
    assert "x/config.json" in str(error.value)
