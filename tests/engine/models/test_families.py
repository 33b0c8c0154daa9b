"""Every family's logits against transformers', however the tokens are cut into steps."""

import pytest
import torch

from tests.engine.models import tiny
from tests.engine.models.paged import PagedModel

TOLERANCE = 1e-4

families = pytest.mark.parametrize("name", list(tiny.RECIPES))


@families
def test_a_prompt_prefilled_at_once_has_transformers_logits(
    name, checkpoints, reference, load_model
):
    model = load_model(checkpoints(name))
    for prompt in tiny.prompts():
        expected = tiny.reference_logits(reference(name), prompt)
        actual = PagedModel(model).prefill(prompt, chunk=len(prompt))
        assert actual.dtype == torch.float32
        assert (actual - expected).abs().max() <= TOLERANCE


@families
@pytest.mark.parametrize("chunk", [1, 7], ids=["token-by-token", "chunks-of-7"])
def test_a_prompt_prefilled_in_pieces_has_transformers_logits(
    name, chunk, checkpoints, reference, load_model
):
    model = load_model(checkpoints(name))
    prompt = tiny.prompts()[2]
    expected = tiny.reference_logits(reference(name), prompt)
    actual = PagedModel(model).prefill(prompt, chunk)
    assert (actual - expected).abs().max() <= TOLERANCE


@families
def test_sequences_in_one_step_do_not_see_each_other(name, checkpoints, reference, load_model):
    model = PagedModel(load_model(checkpoints(name)))
    one, _, other, whole = reversed(tiny.prompts())
    blocks_of_one, blocks_of_other = model.blocks_for(len(one)), model.blocks_for(len(other))
    model.step([(one[:50], 0, blocks_of_one), (other[:-1], 0, blocks_of_other)])
    mixed = [
        (one[50:], 50, blocks_of_one),
        (other[-1:], len(other) - 1, blocks_of_other),
        (whole, 0, model.blocks_for(len(whole))),
    ]
    actual = model.step(mixed).split([len(tokens) for tokens, _, _ in mixed])
    for logits, sequence in zip(actual, (one, other, whole), strict=True):
        expected = tiny.reference_logits(reference(name), sequence)[-len(logits) :]
        assert (logits - expected).abs().max() <= TOLERANCE


def test_the_recipes_windows_are_shorter_than_the_prompts(checkpoints, load_model):
    windows = {
        name: [layer.attention.window for layer in load_model(checkpoints(name)).layers]
        for name in (
            "mistral",
            "mistral-full",
            "qwen2",
            "qwen2-window",
            "qwen3-window",
            "mixtral",
            "qwen3-moe-mixed",
            "smollm3-window",
        )
    }
    assert windows == {
        "mistral": [8, 8, 8],
        "mistral-full": [0, 0, 0],
        "qwen2": [0, 0, 0],
        "qwen2-window": [0, 8, 8],
        "qwen3-window": [0, 8, 8],
        "mixtral": [8, 8, 8],
        "qwen3-moe-mixed": [8, 8, 8, 8],
        "smollm3-window": [0, 8, 0],
    }
