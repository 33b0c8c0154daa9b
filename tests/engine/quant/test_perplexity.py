"""What types of weights do to the built-in model: a slice of tests/bench/perplexity.py.

transformers, in float32, is the reference for the whole way of measuring.
"""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

import engine.builtin
from engine.builtin.tokens import encode_document
from engine.builtin.train import Example
from engine.quant.fp8 import FP8
from engine.quant.hqq import HQQ4, HQQ8
from tests.bench.perplexity_ours import (
    Rounded,
    is_packed,
    load,
    open_model,
    perplexity,
    write_type,
)
from tests.bench.perplexity_text import unseen_chats

MODEL = Path(engine.builtin.__file__).parent
# Over float32's perplexity, in per cent. 24 chats are 2,000 tokens.
MOST_OVER = {"Q8_0": 0.1, "Q6_K": 0.2, "Q5_K": 0.3, "Q4_K": 1.0, "Q3_K": 3.0, "Q2_K": 15.0}


@pytest.fixture(scope="module")
def texts():
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    return [Example(*encode_document(tokenizer, chat)) for chat in unseen_chats(24)]


@pytest.fixture(scope="module")
def plain(texts):
    return perplexity(load(open_model(MODEL), is_exact=True), texts)


@torch.inference_mode()
def test_float_weights_have_the_perplexity_that_transformers_finds(texts, plain):
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    losses = []
    for text in texts:
        ids = torch.tensor(text.token_ids)
        chosen = model(ids[None]).logits[0, :-1].double().log_softmax(-1).gather(1, ids[1:, None])
        losses.append(-chosen[torch.tensor(text.is_target[1:]), 0])
    assert plain == pytest.approx(torch.cat(losses).mean().exp().item(), rel=1e-6)


def test_fewer_bits_have_more_perplexity_within_bounds(texts, plain, tmp_path):
    source = write_type(MODEL, Type.F32, tmp_path / "F32.gguf")
    over = {}
    for name in MOST_OVER:
        path = write_type(source, Type[name], tmp_path / f"{name}.gguf")
        exact = perplexity(load(open_model(path), is_exact=True), texts)
        model = load(open_model(path), is_exact=False)
        assert not is_packed(model) or perplexity(model, texts) == pytest.approx(exact, rel=3e-3)
        over[name] = 100 * (exact / plain - 1)
    assert all(-0.05 < over[name] < most for name, most in MOST_OVER.items()), over
    assert over["Q8_0"] < over["Q4_K"] < over["Q3_K"] < over["Q2_K"], over


@pytest.mark.parametrize(
    ("kind", "most"), [(HQQ8, 0.1), (FP8, 0.5), (HQQ4, 1.0)], ids=["HQQ8", "FP8", "HQQ4"]
)
def test_formats_of_whole_matrices_are_as_good_as_their_bits(kind, most, texts, plain):
    rounded = perplexity(load(Rounded(open_model(MODEL), kind), is_exact=True), texts)
    assert rounded != plain
    assert abs(100 * (rounded / plain - 1)) < most
