"""Log-probabilities through the whole deployment, against transformers on the same weights."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

BUILTIN = Path(__file__).parents[2] / "engine" / "builtin"
TEXT = "Once upon a time there was a little wind that blew over the hills."
QUESTION = [{"role": "user", "content": "What is Tramontane?"}]


@pytest.fixture(scope="module")
def log_probabilities():
    model = AutoModelForCausalLM.from_pretrained(BUILTIN, dtype=torch.float32)

    @torch.no_grad()
    def compute(ids):
        return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)

    return compute


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(BUILTIN / "tokenizer.json"))


def loglikelihoods(client, prompts, **options):
    return client.completions.create(
        model="m", prompt=prompts, echo=True, logprobs=1, **{"max_tokens": 0} | options
    ).choices


def check_prompt(told, ids, truth, tokenizer):
    assert told.token_logprobs[0] is None
    for i in range(1, len(ids)):
        row = truth[i - 1]
        assert told.token_logprobs[i] == pytest.approx(row[ids[i]].item(), abs=1e-3)
        is_greedy = max(told.top_logprobs[i].values()) == told.token_logprobs[i]
        assert is_greedy == (row.argmax().item() == ids[i])
    assert told.tokens == [tokenizer.decode([i], skip_special_tokens=False) for i in ids]


def test_loglikelihoods_of_token_ids_in_batches_are_transformers_own(
    client, log_probabilities, tokenizer
):
    whole = tokenizer.encode(TEXT).ids
    prompts = [whole, whole[:7], whole[3:]]
    for max_tokens in (0, 1):
        choices = loglikelihoods(client, prompts, max_tokens=max_tokens)
        for ids, choice in zip(prompts, choices, strict=True):
            assert len(choice.logprobs.tokens) == len(ids) + max_tokens
            told = choice.logprobs
            del told.tokens[len(ids) :], told.token_logprobs[len(ids) :]
            check_prompt(told, ids, log_probabilities(ids), tokenizer)
            assert choice.text.startswith(tokenizer.decode(ids, skip_special_tokens=False))


def test_an_echoed_text_is_what_was_sent(client):
    [choice] = client.completions.create(model="m", prompt=TEXT, echo=True, max_tokens=0).choices
    assert choice.text == TEXT
    assert choice.finish_reason == "length"


def test_a_chat_s_tokens_are_told_in_a_stream_as_in_one_piece(client):
    options = {"temperature": 0, "max_tokens": 12, "logprobs": True, "top_logprobs": 3}
    answer = client.chat.completions.create(model="m", messages=QUESTION, **options)
    [choice] = answer.choices
    told = choice.logprobs.content
    assert len(told) == answer.usage.completion_tokens
    text = choice.message.content.encode()
    assert b"".join(bytes(t.bytes) for t in told).startswith(text)
    assert all(t.top_logprobs[0].logprob == t.logprob for t in told), "greedy takes the best"
    chunks = client.chat.completions.create(model="m", messages=QUESTION, stream=True, **options)
    streamed = [c.choices[0].logprobs for c in chunks if c.choices]
    assert [t for part in streamed if part for t in part.content] == told
