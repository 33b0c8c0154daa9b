"""Which packed file a word, a number or a pattern means, over listings as they are on the Hub."""

import pytest

from engine.errors import LoadError
from engine.weights.file_choice import BY_BITS, choose

THE_BLOKE = [
    "README.md",
    "config.json",
    *(
        f"llama-2-7b-chat.{quant}.gguf"
        for quant in (
            *("Q2_K", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q4_0", "Q4_K_M", "Q4_K_S"),
            *("Q5_0", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0"),
        )
    ),
]
UNSLOTH = [
    *("BF16/big-BF16-00001-of-00002.gguf", "BF16/big-BF16-00002-of-00002.gguf"),
    *("Q8_0/big-00001-of-00002.gguf", "Q8_0/big-00002-of-00002.gguf"),
    *("big-IQ4_NL.gguf", "big-IQ4_XS.gguf", "big-UD-Q4_K_XL.gguf", "mmproj-BF16.gguf"),
]


def chosen(wanted, names):
    return list(choose(wanted, names, "org/tiny", ".gguf"))


@pytest.mark.parametrize(
    ("wanted", "quant"),
    [
        ("2", "Q2_K"),
        ("3", "Q3_K_M"),
        ("4", "Q4_K_M"),
        ("5", "Q5_K_M"),
        ("6", "Q6_K"),
        ("8", "Q8_0"),
        ("Q4_K_M", "Q4_K_M"),
        ("q4_k_s", "Q4_K_S"),
        ("Q4_K", "Q4_K_M"),
        ("q4k", "Q4_K_M"),
        ("Q6K", "Q6_K"),
        ("Q4_0", "Q4_0"),
        ("*Q4_K_M*", "Q4_K_M"),
        ("*q4_k_m.GGUF", "Q4_K_M"),
        ("llama-2-7b-chat.Q5_0.gguf", "Q5_0"),
    ],
)
def test_a_word_means_one_file(wanted, quant):
    assert chosen(wanted, THE_BLOKE) == [f"llama-2-7b-chat.{quant}.gguf"]


@pytest.mark.parametrize("bits", BY_BITS)
def test_a_number_takes_the_next_best_when_the_best_is_not_there(bits):
    """The documented order, with one quantisation after the other taken away."""
    order = BY_BITS[bits]
    for first in range(len(order)):
        files = [f"m-{quant}.gguf" for quant in reversed(order[first:])]
        assert chosen(bits, files) == [f"m-{order[first]}.gguf"]


@pytest.mark.parametrize(
    ("wanted", "files"),
    [
        ("8", UNSLOTH[2:4]),
        ("bf16", UNSLOTH[:2]),
        ("4", ["big-UD-Q4_K_XL.gguf"]),
        ("ud-q4_k_xl", ["big-UD-Q4_K_XL.gguf"]),
        ("iq4_xs", ["big-IQ4_XS.gguf"]),
        ("Q8_0/big-00001-of-00002.gguf", UNSLOTH[2:4]),
        ("big-00002-of-00002.gguf", UNSLOTH[2:4]),
        ("Q8_0/*", UNSLOTH[2:4]),
        ("*NL*;*XS*", ["big-IQ4_NL.gguf", "big-IQ4_XS.gguf"]),
        ("big-IQ4_NL.gguf big-IQ4_XS.gguf", ["big-IQ4_NL.gguf", "big-IQ4_XS.gguf"]),
    ],
)
def test_folders_splits_and_lists(wanted, files):
    assert chosen(wanted, UNSLOTH) == files


def test_a_name_with_spaces_is_one_name():
    assert chosen("my model.gguf", ["my model.gguf", "model.gguf"]) == ["my model.gguf"]


def test_a_name_with_pattern_characters_is_that_name():
    assert chosen("m[1].gguf", ["m[1].gguf", "m1.gguf"]) == ["m[1].gguf"]


def test_a_projector_is_never_the_model():
    assert chosen(None, ["m.gguf", "mmproj-m.gguf", "sub/MMPROJ.gguf"]) == ["m.gguf"]
    assert chosen("*.gguf", ["m.gguf", "mmproj-m.gguf"]) == ["m.gguf"]
    with pytest.raises(LoadError, match=r"has no file mmproj-m.gguf; it has m.gguf"):
        chosen("mmproj-m.gguf", ["m.gguf", "mmproj-m.gguf"])


@pytest.mark.parametrize(
    ("wanted", "names", "says"),
    [
        (None, THE_BLOKE, "has llama.*Q2_K.gguf, .*Q8_0.gguf; say which GGUF file with -f"),
        ("*Q4*", THE_BLOKE, r"'\*Q4\*' fits llama.*Q4_0.gguf, .*Q4_K_M.gguf, .* of org/tiny; say"),
        ("Q7_K", THE_BLOKE, "no file that 'Q7_K' fits; it has llama-2-7b-chat.Q2_K.gguf, "),
        ("7", THE_BLOKE, "no file that '7' fits"),
        ("llama", THE_BLOKE, "no file that 'llama' fits"),
        ("x.gguf", THE_BLOKE, "no file x.gguf; it has llama-2-7b-chat.Q2_K.gguf, "),
        ("4", ["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], "'4' fits a-Q4_K_M.gguf, b-Q4_K_M.gguf of"),
        (None, ["mmproj.gguf"], "has no GGUF file to serve; choose another"),
        (" ; ", THE_BLOKE, "' ; ' names no file"),
        (None, [f"m{i:03}.gguf" for i in range(60)], "m039.gguf and 20 more; say which"),
    ],
)
def test_none_or_several_are_one_sentence_with_the_candidates(wanted, names, says):
    with pytest.raises(LoadError, match=says) as error:
        chosen(wanted, names)
    assert "\n" not in str(error.value)
