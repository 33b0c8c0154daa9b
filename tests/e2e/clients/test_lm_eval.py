"""lm-eval's `local-completions`, unchanged: its loglikelihoods are transformers' own.

`make nightly-lm-eval` installs it.
"""

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.nightly
os.environ.setdefault("HF_HUB_OFFLINE", "1")
completions = pytest.importorskip(
    "lm_eval.models.openai_completions", reason="make nightly-lm-eval"
)

BUILTIN = Path(__file__).parents[3] / "engine" / "builtin"
# A local task: which end has the text?
CHOICES = [
    ("Once upon a time there was a little", " wind"),
    ("Once upon a time there was a little", " house by the sea"),
    ("What is Tramontane?", " It is a wind from the north."),
    ("The", " hills"),
]


@pytest.fixture(scope="module")
def truth():
    """(log-probability, is it greedy) of what follows a context, from transformers."""
    model = AutoModelForCausalLM.from_pretrained(BUILTIN, dtype=torch.float32)

    @torch.no_grad()
    def compute(context, ending):
        ids = torch.tensor([[*context, *ending]])
        rows = model(ids).logits[0].double().log_softmax(-1)[len(context) - 1 : -1]
        total = sum(row[i].item() for row, i in zip(rows, ending, strict=True))
        return total, rows.argmax(-1).tolist() == ending

    return compute


@pytest.fixture(scope="module", params=[1, 3], ids=["one at a time", "in batches"])
def lm(request, api_url):
    return completions.LocalCompletionsAPI(
        model="any",
        base_url=api_url + "/v1/completions",
        tokenizer_backend="huggingface",
        tokenizer=str(BUILTIN),
        batch_size=request.param,
        max_length=512,
    )


def instances(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def test_its_loglikelihoods_are_transformers_own(lm, truth):
    told = lm.loglikelihood(instances("loglikelihood", CHOICES))
    assert len(told) == len(CHOICES)
    for (context, ending), (logprob, is_greedy) in zip(CHOICES, told, strict=True):
        expected, expected_greedy = truth(*lm._encode_pair(context, ending))
        assert logprob == pytest.approx(expected, abs=1e-3)
        assert is_greedy == expected_greedy


def test_a_greedy_ending_is_told_to_be_greedy(lm, client, truth):
    context = "Once upon a time"
    made = client.completions.create(model="any", prompt=context, temperature=0, max_tokens=4)
    ((logprob, is_greedy),) = lm.loglikelihood(
        instances("loglikelihood", [(context, made.choices[0].text)])
    )
    assert (logprob, is_greedy) == (
        pytest.approx(truth(*lm._encode_pair(context, made.choices[0].text))[0], abs=1e-3),
        True,
    )


def test_it_generates_until_a_stop_string(lm, client):
    options = {"until": ["."], "max_gen_toks": 24, "temperature": 0}
    (text,) = lm.generate_until(instances("generate_until", [("Once upon a time", options)]))
    expected = client.completions.create(
        model="any", prompt="Once upon a time", temperature=0, max_tokens=24, stop=["."]
    )
    assert text == expected.choices[0].text
