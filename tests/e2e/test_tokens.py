"""/tokenize and its like with a real worker: they tell what the model is really given."""

import httpx2
import pytest

CHAT = [{"role": "user", "content": "What is Tramontane?"}]


def ask(url, path, **body):
    reply = httpx2.post(url + path, json=body, timeout=30)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_text_goes_to_tokens_and_back(api_url):
    text = "The wind — de l'air — blows."
    tokens = ask(api_url, "/tokenize", content=text)["tokens"]
    assert ask(api_url, "/detokenize", tokens=tokens)["content"] == text
    pieces = ask(api_url, "/tokenize", content=text, with_pieces=True)["tokens"]
    parts = (p["piece"] for p in pieces)
    joined = b"".join(p.encode() if isinstance(p, str) else bytes(p) for p in parts)
    assert joined.decode() == text


@pytest.mark.parametrize("thinking", [{}, {"add_generation_prompt": False}])
def test_a_chat_is_counted_as_its_answer_s_usage_counts_it(api_url, client, thinking):
    usage = client.chat.completions.create(
        model="any", messages=CHAT, max_tokens=1, extra_body=thinking
    ).usage
    counted = ask(api_url, "/tokenize", messages=CHAT, **thinking)
    assert counted["count"] == usage.prompt_tokens
    prompt = ask(api_url, "/apply-template", messages=CHAT, **thinking)["prompt"]
    again = ask(api_url, "/tokenize", prompt=prompt, add_special_tokens=False)
    assert again["tokens"] == counted["tokens"]
