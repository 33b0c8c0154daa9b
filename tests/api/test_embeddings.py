"""Embeddings over HTTP: forms of input and output, refusals, answers later and in batches."""

import base64
import json
import math
import struct

import openai
import pytest

from tests.api.batch_app import outputs
from tests.api.fake_worker import CONTEXT_LENGTH, TASKS, VECTOR_SIZE, FakeWorker, fake_vector
from workers import contract

PATH = "/v1/embeddings"


@pytest.fixture(scope="module")
def client(vector_api):
    with openai.OpenAI(base_url=vector_api.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def numbers(source, size=VECTOR_SIZE):
    return list(struct.unpack(f"<{VECTOR_SIZE}f", fake_vector(source)))[:size]


def test_the_openai_client_gets_the_vectors_in_the_order_of_its_inputs(client, vector_workers):
    texts = [f"text {i}" for i in range(5)]
    answer = client.embeddings.create(model="m/embed", input=texts)
    assert [item.embedding for item in answer.data] == [numbers(text) for text in texts]
    assert [item.index for item in answer.data] == list(range(5))
    assert answer.model == "m/embed"
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (7, 7)


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("one text", ["one text"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["a", [4]], ["a", [4]]),
    ],
)
def test_an_input_is_a_text_texts_token_ids_or_lists_of_them(vector_api, given, prompts):
    reply = vector_api.request("POST", PATH, {"model": "m/embed", "input": given})
    assert [item["embedding"] for item in reply.json["data"]] == [numbers(p) for p in prompts]
    assert reply.json["object"] == "list"
    assert {item["object"] for item in reply.json["data"]} == {"embedding"}


def test_base64_is_the_same_as_little_endian_float32(vector_api):
    body = {"model": "m/embed", "input": "x", "encoding_format": "base64"}
    (item,) = vector_api.request("POST", PATH, body).json["data"]
    assert base64.b64decode(item["embedding"]) == fake_vector("x")


@pytest.mark.parametrize("size", [1, 3, VECTOR_SIZE])
def test_dimensions_cut_the_vector_and_scale_it_to_length_one(client, size):
    (item,) = client.embeddings.create(model="m/embed", input="x", dimensions=size).data
    cut = numbers("x", size)
    length = math.sqrt(sum(number**2 for number in cut))
    assert item.embedding == pytest.approx([number / length for number in cut], rel=1e-6)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "missing_required_parameter", "input"),
        ({"input": ""}, "invalid_value", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": ["a", ""]}, "invalid_value", "input"),
        ({"input": [1, "a"]}, "invalid_type", "input"),
        ({"input": [1, 100]}, "invalid_value", "input"),
        ({"input": [[-1]]}, "invalid_value", "input[0][0]"),
        ({"input": ["a"] * 2049}, "invalid_value", "input"),
        ({"input": {"text": "a"}}, "invalid_type", "input"),
        ({"input": "a", "dimensions": VECTOR_SIZE + 1}, "invalid_value", "dimensions"),
        ({"input": "a", "dimensions": 0}, "invalid_value", "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "invalid_value", "encoding_format"),
        ({"input": "a", "truncate_prompt_tokens": -2}, "invalid_value", "truncate_prompt_tokens"),
        ({"input": "a" * (CONTEXT_LENGTH * 128 + 1)}, "context_length_exceeded", "input"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_field_s_name(vector_api, fields, code, param):
    reply = vector_api.request("POST", PATH, {"model": "m/embed", **fields})
    assert reply.status == 400
    assert (reply.json["error"]["code"], reply.json["error"]["param"]) == (code, param)


def test_as_many_inputs_as_openai_takes_are_answered(client):
    texts = [str(i) for i in range(2048)]
    answer = client.embeddings.create(model="m/embed", input=texts)
    assert [item.embedding[0] for item in answer.data] == [numbers(text)[0] for text in texts]


def test_what_is_too_long_may_be_cut_by_the_worker(vector_api, vector_workers):
    text = "a" * (CONTEXT_LENGTH * 128 + 1)
    body = {"model": "m/embed", "input": text, "truncate_prompt_tokens": -1}
    reply = vector_api.request("POST", PATH, body)
    assert reply.status == 200
    assert vector_workers["m/embed"].specs[reply.headers["x-job-id"]].max_input_tokens == -1


@pytest.mark.parametrize("model", ["m/text", "m/score"])
def test_a_model_for_another_task_is_refused_and_says_what_to_do(client, model):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=model, input="a")
    assert (caught.value.code, caught.value.param) == ("unsupported_model", "model")
    assert model in caught.value.message
    assert ("--task embed" if model == "m/text" else "/v1/rerank") in caught.value.message


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/responses", {"input": "a"}),
    ],
)
def test_a_model_of_embeddings_makes_no_text(vector_api, path, fields):
    reply = vector_api.request("POST", path, {"model": "m/embed", **fields})
    assert (reply.status, reply.json["error"]["code"]) == (400, "unsupported_model")
    assert "/v1/embeddings" in reply.json["error"]["message"]


def test_a_name_that_nobody_knows_means_the_one_model_that_can_do_it(client):
    answer = client.embeddings.create(model="text-embedding-3-small", input="a")
    assert answer.model == "m/embed"


def test_the_list_of_models_says_what_each_is_for(vector_api):
    models = vector_api.get("/v1/models").json["data"]
    assert {model["id"]: model["task"] for model in models} == TASKS


def test_an_answer_can_be_fetched_later(vector_api):
    body = {"model": "m/embed", "input": ["a", "b"]}
    reply = vector_api.request("POST", PATH, body, Prefer="respond-async")
    assert reply.status == 202
    job = vector_api.get(reply.headers["location"] + "?wait=30").json
    assert (job["state"], job["endpoint"]) == ("completed", PATH)
    assert [item["embedding"] for item in job["result"]["data"]] == [numbers("a"), numbers("b")]


def test_a_job_shows_what_it_has_so_far_and_can_be_stopped(vector_api, wait):
    body = {"model": "m/embed", "input": ["a", "b", "hang"]}
    where = vector_api.request("POST", PATH, body, Prefer="respond-async").headers["location"]
    wait(lambda: len(_so_far(vector_api, where)) == 2, "two vectors are there")
    assert vector_api.request("DELETE", where).json["state"] == "cancelled"


def _so_far(vector_api, where):
    return (vector_api.get(where).json["partial"] or {}).get("data", [])


def test_the_vectors_of_a_job_can_be_followed_from_any_one_on(vector_api):
    body = {"model": "m/embed", "input": ["a", "b", "c"]}
    where = vector_api.request("POST", PATH, body, Prefer="respond-async").headers["location"]
    frames = vector_api.get(where + "/events").frames
    assert [(number, data if data == "[DONE]" else data["index"]) for number, data in frames] == [
        *((1, 0), (2, 1), (3, 2)),
        (4, "[DONE]"),
    ]
    assert [data["embedding"] for _, data in frames[:-1]] == [numbers(text) for text in "abc"]
    assert vector_api.get(where + "/events?starting_after=1").frames == frames[1:]


def test_a_failure_is_the_answer(vector_api):
    reply = vector_api.request("POST", PATH, {"model": "m/embed", "input": "fail engine_error"})
    assert (reply.status, reply.json["error"]["code"]) == (500, "engine_error")


async def test_a_batch_may_ask_for_embeddings(redis_url, app):
    worker = FakeWorker(redis_url, model="m/embed", task="embed")
    worker.start()
    try:
        bodies = [{"model": "m/embed", "input": text} for text in ("a", "b")]
        bodies.append({"model": "tiny/demo", "input": "c"})
        lines = [
            json.dumps({"custom_id": f"r{i}", "method": "POST", "url": PATH, "body": body})
            for i, body in enumerate(bodies)
        ]
        await app.until(lambda: _is_known(app, "m/embed"), "the model is known")
        _, answers, errors = await outputs(app, await app.begin("\n".join(lines), endpoint=PATH))
    finally:
        worker.stop()
    vectors = {k: v["response"]["body"]["data"][0]["embedding"] for k, v in answers.items()}
    assert vectors == {"r0": numbers("a"), "r1": numbers("b")}
    assert errors["r2"]["response"]["body"]["error"]["code"] == "unsupported_model"


async def _is_known(app, model):
    return (await app.broker.directory(0)).card(model) is not None


def test_a_job_is_charged_for_its_inputs_alone(vector_api, vector_workers):
    body = {"model": "m/embed", "input": ["abcdefgh", [1, 2, 3]]}
    job_id = vector_api.request("POST", PATH, body).headers["x-job-id"]
    spec = vector_workers["m/embed"].specs[job_id]
    assert (spec.prompt_tokens, spec.cost) == (5, 5)
    assert isinstance(spec, contract.Job)


@pytest.mark.parametrize(("prefer", "ttl_s"), [(None, 60), ("respond-async", 0)])
def test_vectors_that_somebody_waited_for_do_not_stay_long(
    vector_api, vector_workers, prefer, ttl_s
):
    headers = {} if prefer is None else {"Prefer": prefer}
    reply = vector_api.request("POST", PATH, {"model": "m/embed", "input": "a"}, **headers)
    job_id = reply.headers["x-job-id"]
    assert vector_api.get(f"/v1/jobs/{job_id}?wait=20").json["state"] == "completed"
    assert vector_workers["m/embed"].specs[job_id].result_ttl_s == ttl_s


def test_a_chat_s_tokens_are_counted_by_the_model_that_would_answer_it(vector_api):
    chat = {"model": "some-name", "messages": [{"role": "user", "content": "hi"}]}
    response = {"model": "some-name", "input": "hi"}
    for path, body in (
        ("/v1/messages/count_tokens", chat),
        ("/v1/responses/input_tokens", response),
        ("/tokenize", chat),
        ("/apply-template", chat),
    ):
        assert vector_api.request("POST", path, body).status == 200, path
