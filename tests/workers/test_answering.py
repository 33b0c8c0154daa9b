"""Questions about texts: what a worker says, against the tokenizer and template themselves."""

import asyncio

import pytest

from tests.workers.test_prepare import INFO, chat
from tests.workers.wire import QUEUE
from workers import contract
from workers.answering import Answering, answer
from workers.prepare import prepare
from workers.questions import (
    REPLY,
    Detokenize,
    Question,
    Render,
    Tokenize,
    decode_reply,
    question_key,
    questions_key,
)


def ask(text, subject, **fields):
    return answer(Question(id="q", home="A", subject=subject, **fields), text, INFO)


@pytest.mark.parametrize("adds_special_tokens", [True, False])
def test_a_text_is_tokenized_with_and_without_special_tokens(text, adds_special_tokens):
    reply = ask(text, Tokenize("hello wörld", adds_special_tokens), wants_pieces=True)
    assert reply.token_ids == text.tokenizer.encode("hello wörld", adds_special_tokens)
    assert b"".join(reply.pieces).decode().endswith("hello wörld")


def test_tokens_become_text_again(text):
    ids = text.tokenizer.encode("hello wörld", add_special_tokens=False)
    assert ask(text, Detokenize(ids)).text == "hello wörld"


def test_a_chat_s_prompt_has_the_tokens_that_its_job_would_have(text):
    job = chat(max_tokens=4)
    (plan,) = prepare(job, text, INFO)
    reply = ask(text, Render(job, is_tokenized=True))
    assert reply.token_ids == plan.prompt_ids
    assert reply.text == text.chat_template.render(job.messages)
    assert ask(text, Render(job, is_tokenized=False)).token_ids == []


def test_what_cannot_be_done_is_told_with_its_field(text):
    failed = ask(text, Detokenize([5, 999_999])).failed
    assert failed is not None
    assert (failed.code, failed.param) == ("invalid_value", "tokens")
    failed = ask(text._replace(chat_template=None), Render(chat(), is_tokenized=True)).failed
    assert failed is not None
    assert "no chat template" in failed.message


def test_our_own_fault_is_told_without_the_text(text, caplog):
    failed = ask(text._replace(tokenizer=None), Tokenize("secret words", False)).failed
    assert failed is not None
    assert failed.code == "internal_error"
    assert "secret" not in caplog.text


@pytest.fixture
async def answering(redis_url, text):
    task = asyncio.create_task(Answering(redis_url, QUEUE, text, INFO).run())
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def put(wire, question_id, data, ttl_ms=5000):
    keys = [questions_key(QUEUE), question_key(question_id)]
    return await wire.script("question", keys, [question_id, data, 2, ttl_ms])


async def test_it_answers_on_the_channel_of_whoever_asked(wire, answering, text):
    async with wire.client.pubsub() as channel:
        await channel.subscribe(contract.api_channel("A"))
        await put(wire, "bad", b"\xc1")  # is left out
        question = Question(id="q", home="A", subject=Tokenize("hello", False))
        await put(wire, "q", contract.encode(question))
        async with asyncio.timeout(10):
            async for message in channel.listen():
                if message["type"] == "message":
                    break
    assert message["data"].startswith(REPLY)
    reply = decode_reply(message["data"])
    assert reply.id == "q"
    assert reply.token_ids == text.tokenizer.encode("hello", add_special_tokens=False)
    assert not answering.done()
    assert await wire.client.exists(question_key("q"), questions_key(QUEUE)) == 0


async def test_a_queue_takes_no_more_questions_than_its_bound_and_forgets_old_ones(wire):
    assert [await put(wire, f"q{i}", b"x", ttl_ms=50) for i in range(3)] == [1, 1, 0]
    await asyncio.sleep(0.1)
    assert await wire.client.keys("*question*") == []
