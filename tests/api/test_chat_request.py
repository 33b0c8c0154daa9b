"""A chat's body as a job: what an earlier answer thought goes back to the template."""

import msgspec

from api.chat import chat_job
from api.schema.chat import ChatRequest
from workers.contract import ModelCard

CARD = ModelCard(name="m", queue="q:m", context_length=64, vocab_size=100, created_s=0)


def test_thoughts_come_back_as_they_were_told():
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    turn = {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [call]}
    body = {"messages": [turn, {"role": "tool", "tool_call_id": "c", "content": "2"}]}
    job = chat_job(msgspec.convert(body, ChatRequest), CARD, "A", "r")
    assert job.messages is not None
    assert job.messages[0] == {**turn, "content": ""}
    assert "reasoning_content" not in job.messages[1]


def test_no_effort_is_no_thinking():
    body = {"messages": "hi", "reasoning_effort": "none"}
    job = chat_job(msgspec.convert(body, ChatRequest), CARD, "A", "r")
    assert job.template_kwargs == {"reasoning_effort": "none", "enable_thinking": False}


def test_a_refusal_comes_back_as_the_assistant_s_words():
    refusal = [{"type": "refusal", "refusal": "I will not."}]
    messages = [{"role": "user", "content": "Do!"}, {"role": "assistant", "content": refusal}]
    request = msgspec.convert({"messages": messages}, ChatRequest)
    assert request.wire_messages()[1]["content"] == "I will not."
