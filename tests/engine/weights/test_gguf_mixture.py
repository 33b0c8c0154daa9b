"""Which type a tensor gets; every name against llama.cpp itself is a nightly test of quant/."""

import pytest
from gguf import GGMLQuantizationType as Type, LlamaFileType

from engine.errors import InvalidInput
from engine.weights.gguf_mixture import FILE_TYPES, ModelFacts, find_scheme, is_packed

FACTS = ModelFacts("llama", num_layers=16, group=4, num_experts=0, is_tied=False)
WIDE = (256, 512)


def choose(scheme, name, shape=WIDE, **changes):
    return find_scheme(scheme).choose(name, shape, FACTS._replace(**changes))


def test_q4_k_m_gives_more_bits_to_the_layers_that_need_them():
    kinds = [choose("Q4_K_M", f"blk.{layer}.ffn_down.weight") for layer in range(16)]
    more = {0, 1, 4, 7, 10, 13, 14, 15}
    assert kinds == [Type.Q6_K if layer in more else Type.Q4_K for layer in range(16)]
    assert choose("Q4_K_M", "blk.0.attn_v.weight") is Type.Q6_K
    assert choose("Q4_K_M", "blk.0.attn_q.weight") is Type.Q4_K


def test_the_output_has_six_bits_and_the_embeddings_only_where_they_are_the_output():
    assert choose("Q4_K_M", "output.weight") is Type.Q6_K
    assert choose("Q4_K_M", "token_embd.weight") is Type.Q4_K
    assert choose("Q4_K_M", "token_embd.weight", is_tied=True) is Type.Q6_K
    assert choose("Q8_0", "output.weight") is Type.Q8_0


def test_names_without_an_underscore_and_levels_are_one_format_and_a_step_up_at_the_ends():
    for name in ("Q4K", "q4k", "4"):
        assert choose(name, "blk.0.ffn_down.weight") is Type.Q4_K
        assert choose(name, "output.weight") is Type.Q6_K
        assert choose(name, "token_embd.weight") is Type.Q6_K
    assert choose("Q5K", "token_embd.weight") is Type.Q8_0
    assert choose("4", "blk.0.ffn_up.weight", (64, 96)) is Type.Q4_1
    assert choose("4", "blk.0.ffn_up.weight", (64, 50)) is Type.F16


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Q2_K", Type.Q4_0), ("Q3_K_S", Type.Q4_0), ("Q4_K_S", Type.Q5_0), ("Q6_K", Type.Q8_0)],
)
def test_odd_widths_fall_back_as_in_llama_cpp(name, expected):
    assert choose(name, "blk.9.ffn_up.weight", (64, 96)) is expected
    assert choose(name, "blk.9.ffn_up.weight", (64, 50)) is Type.F16
    assert choose(name, "output.weight", (64, 96)) is Type.Q8_0


def test_eight_experts_and_seventy_billion_have_rules_of_their_own():
    assert choose("Q4_K_M", "blk.9.attn_k.weight", num_experts=8) is Type.Q8_0
    assert choose("Q4_K_M", "blk.9.attn_v.weight", num_experts=8) is Type.Q8_0
    assert choose("Q4_K_M", "blk.9.attn_output.weight", num_experts=8) is Type.Q5_K
    assert choose("Q3_K_S", "blk.30.attn_v.weight", num_layers=80) is Type.Q5_K


def test_file_types_are_llama_cpps():
    assert find_scheme("q4_k_m").file_type is LlamaFileType.MOSTLY_Q4_K_M
    assert find_scheme("Q4_K").file_type is LlamaFileType.MOSTLY_Q4_K_M
    assert find_scheme("4").file_type is LlamaFileType.MOSTLY_Q4_K_S


@pytest.mark.parametrize("name", FILE_TYPES)
def test_every_listed_name_is_known(name):
    assert choose(name, "blk.0.ffn_up.weight") in Type


@pytest.mark.parametrize("name", ["Q7", "HQQ4", "Q8_1", "Q8K", "FP8", "", "7"])
def test_a_type_that_no_file_can_have_is_refused_with_the_list(name):
    with pytest.raises(InvalidInput, match=f"of type {name} cannot be written; choose one of F32"):
        find_scheme(name)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blk.0.attn_q.weight", (8, 8), True),
        ("blk.0.ffn_up_exps.weight", (4, 8, 8), True),
        ("blk.0.attn_norm.weight", (8,), False),
        ("blk.0.attn_q.bias", (8,), False),
        ("blk.0.ffn_gate_inp.weight", (4, 8), False),
        ("blk.0.attn_q_norm.weight", (8, 8), False),
    ],
)
def test_matrices_are_packed_and_norms_biases_and_routers_are_not(name, shape, expected):
    assert is_packed(name, shape) is expected
