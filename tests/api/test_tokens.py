"""/tokenize, /detokenize and /apply-template, in the shapes of vLLM and llama-server."""

import asyncio

import openai
import pytest

from api.asker import Asker
from api.errors import ApiError
from tests.api.fake_worker import CONTEXT_LENGTH
from workers.questions import MAX_BYTES, MAX_QUESTIONS, Tokenize

CHAT = [{"role": "user", "content": "hi"}]


def ask(api, path, **body):
    return api.request("POST", path, body)


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
def test_a_prompt_becomes_token_ids_as_vllm_tells_them(api, path):
    assert ask(api, path, model="any", prompt="hé").json == {
        "count": 3,
        "max_model_len": CONTEXT_LENGTH,
        "tokens": [1, 104, 233],
        "token_strs": None,
    }


def test_special_tokens_are_added_as_the_two_servers_do_by_default_or_as_asked(api):
    assert ask(api, "/tokenize", prompt="h", add_special_tokens=False).json["tokens"] == [104]
    assert ask(api, "/tokenize", content="h").json["tokens"] == [104]
    assert ask(api, "/tokenize", content="h", add_special=True).json["tokens"] == [1, 104]


def test_pieces_come_in_llama_server_s_form_with_bytes_for_a_part_of_a_character(api):
    reply = ask(api, "/tokenize", content="hé", with_pieces=True).json
    assert reply["tokens"] == [{"id": 104, "piece": "h"}, {"id": 233, "piece": [233]}]
    reply = ask(api, "/tokenize", content="hi", return_token_strs=True).json
    assert (reply["tokens"], reply["token_strs"]) == ([104, 105], ["h", "i"])


def test_a_chat_is_tokenized_as_its_template_shows_it(api):
    reply = ask(api, "/tokenize", model="any", messages=CHAT).json
    assert "".join(map(chr, reply["tokens"])) == "user:hi"
    assert reply["count"] == 7


@pytest.mark.parametrize("path", ["/detokenize", "/v1/detokenize"])
def test_token_ids_become_text_under_both_names(api, path):
    assert ask(api, path, tokens=[65, 66]).json == {"prompt": "AB", "content": "AB"}


@pytest.mark.parametrize("path", ["/apply-template", "/v1/apply-template"])
def test_a_chat_is_shown_as_the_model_reads_it(api, path):
    assert ask(api, path, messages=CHAT).json == {"prompt": "user:hi"}


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("/tokenize", {}, "missing_required_parameter", "prompt"),
        ("/tokenize", {"prompt": "a", "content": "b"}, "invalid_value", "content"),
        ("/tokenize", {"prompt": 7}, "invalid_type", "prompt"),
        ("/tokenize", {"messages": [{"role": "king"}]}, "invalid_value", "messages[0].role"),
        ("/tokenize", {"content": "a", "parse_special": False}, "unsupported_parameter", None),
        (
            "/tokenize",
            {"messages": CHAT, "add_special_tokens": True},
            "unsupported_parameter",
            "add_special_tokens",
        ),
        ("/detokenize", {"tokens": [5, 100]}, "invalid_value", "tokens"),
        ("/detokenize", {"tokens": "a"}, "invalid_type", "tokens"),
        ("/apply-template", {}, "missing_required_parameter", "messages"),
    ],
)
def test_bad_requests_are_refused_with_their_field(api, path, body, code, param):
    reply = ask(api, path, **body)
    assert (reply.status, reply.json["error"]["code"]) == (400, code)
    assert param is None or reply.json["error"]["param"] == param


def test_what_the_worker_refuses_is_its_sentence(api):
    reply = ask(api, "/apply-template", messages=[{"role": "user", "content": "refuse me"}])
    assert (reply.status, reply.json["error"]["message"]) == (400, "It is refused.")


async def test_without_a_living_worker_it_is_503_at_once(app, worker):
    await app.client.models.list()
    await asyncio.to_thread(worker.stop)
    await app.redis.delete("worker:fake")
    await app.broker.directory(max_age_s=0)
    with pytest.raises(openai.InternalServerError) as caught:
        await app.client.post("/tokenize", body={"prompt": "a"}, cast_to=object)
    assert (caught.value.status_code, caught.value.code) == (503, "no_workers")


@pytest.fixture
def asker(app):
    return Asker(app.redis, app.broker.call, "me", answer_s=0.1)


async def test_a_question_that_nobody_answers_ends_and_leaves_nothing(app, asker):
    with pytest.raises(ApiError, match="within") as caught:
        await asker.ask("q:nobody", Tokenize("a", False))
    assert caught.value.code == "timeout"
    await asyncio.sleep(0.1)
    assert [key async for key in app.redis.scan_iter("*question*")] == []


async def test_more_questions_than_a_queue_holds_are_refused(app, asker):
    await app.redis.rpush("q:nobody:questions", *range(MAX_QUESTIONS))
    with pytest.raises(ApiError) as caught:
        await asker.ask("q:nobody", Tokenize("a", False))
    assert (caught.value.code, caught.value.status) == ("queue_full", 503)


async def test_a_reply_that_cannot_be_read_disturbs_nobody(asker):
    asker.hear(b"R\xc1")
    with pytest.raises(ApiError, match="within"):
        await asker.ask("q:nobody", Tokenize("a", False))


async def test_a_text_that_would_take_a_worker_minutes_is_413(asker):
    with pytest.raises(ApiError) as caught:
        await asker.ask("q:nobody", Tokenize("x" * MAX_BYTES, False))
    assert (caught.value.code, caught.value.status) == ("request_too_large", 413)
