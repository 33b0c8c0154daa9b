"""The line that says what is served."""

import pytest

from deploy.ready import ready_line
from workers.contract import ModelCard


@pytest.mark.parametrize(
    ("task", "room"),
    [
        ("generate", "KV cache 4,096 tokens"),
        ("embed", "steps of up to 4,096 tokens"),
        ("score", "steps of up to 4,096 tokens"),
    ],
)
def test_it_calls_the_tokens_what_they_are(task, room):
    card = ModelCard(
        name="m",
        queue="q:m",
        context_length=1024,
        vocab_size=9,
        created_s=0,
        device="cpu",
        dtype="float32",
        kv_tokens=4096,
        task=task,
    )
    assert ready_line(card, "http://here") == (
        f"ready: m · context 1,024 tokens · {room} · cpu float32 · http://here"
    )
