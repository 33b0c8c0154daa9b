"""/v1/score and /v1/rerank over HTTP, by a scorer and by the cosine of embeddings."""

import struct

import numpy as np
import pytest

from tests.api.fake_worker import fake_vector
from workers import contract

DOCUMENTS = ["paris", "rome", "london", "berlin"]
QUERY = "capital of france"


def by_scorer(query, document):
    (score,) = struct.unpack("<f", fake_vector((query, document), 1))
    return score


def by_cosine(query, document):
    a, b = (
        np.frombuffer(fake_vector(text), "<f4").astype(np.float64) for text in (query, document)
    )
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


MODELS = pytest.mark.parametrize(
    ("model", "score_of"),
    [("m/score", by_scorer), ("m/embed", by_cosine)],
    ids=["scorer", "embeddings"],
)


@MODELS
@pytest.mark.parametrize("path", contract.SCORES)
@pytest.mark.parametrize(
    ("text_1", "text_2", "pairs"),
    [
        ("a", "b", [("a", "b")]),
        ("a", ["b", "c", "d"], [("a", "b"), ("a", "c"), ("a", "d")]),
        (["a"], ["b", "c"], [("a", "b"), ("a", "c")]),
        (["a", "b"], ["c", "d"], [("a", "c"), ("b", "d")]),
    ],
    ids=["1:1", "1:N", "[1]:N", "N:N"],
)
def test_a_score_is_the_model_s_for_each_pair(
    vector_api,
    model,
    score_of,
    path,
    text_1,
    text_2,
    pairs,
):
    body = {"model": model, "text_1": text_1, "text_2": text_2}
    reply = vector_api.request("POST", path, body)
    assert reply.status == 200
    assert [item["index"] for item in reply.json["data"]] == list(range(len(pairs)))
    scores = [item["score"] for item in reply.json["data"]]
    assert scores == pytest.approx([score_of(*pair) for pair in pairs], rel=1e-9)
    assert {item["object"] for item in reply.json["data"]} == {"score"}
    assert reply.json["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert reply.json["model"] == model


@MODELS
@pytest.mark.parametrize("path", contract.RERANKS)
def test_a_ranking_has_the_best_documents_first(vector_api, model, score_of, path):
    body = {"model": model, "query": QUERY, "documents": DOCUMENTS, "top_n": 3}
    reply = vector_api.request("POST", path, body).json
    scores = {i: score_of(QUERY, document) for i, document in enumerate(DOCUMENTS)}
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:3]
    assert [result["index"] for result in reply["results"]] == best
    shown = [result["relevance_score"] for result in reply["results"]]
    assert shown == pytest.approx([scores[i] for i in best], rel=1e-9)
    assert reply["usage"]["total_tokens"] == 7


@pytest.mark.parametrize(
    ("path", "asked", "shows"),
    [
        ("/v1/rerank", None, True),
        ("/rerank", False, False),
        ("/v2/rerank", None, False),
        ("/v2/rerank", True, True),
    ],
)
def test_documents_come_back_as_jina_has_them_or_cohere(vector_api, path, asked, shows):
    documents = [{"text": "one"}, "two"]
    body = {"model": "m/score", "query": "q", "documents": documents, "return_documents": asked}
    results = vector_api.request("POST", path, body).json["results"]
    texts = {result["index"]: result.get("document") for result in results}
    assert texts == ({0: {"text": "one"}, 1: {"text": "two"}} if shows else {0: None, 1: None})


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/score", {"text_1": "a"}, "text_2"),
        ("/v1/score", {"text_1": "a", "text_2": []}, "text_2"),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1"),
        ("/v1/rerank", {"documents": ["a"]}, "query"),
        ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["a"] * 2049}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "top_n": -1}, "top_n"),
    ],
)
def test_what_cannot_be_meant_is_refused(vector_api, path, fields, param):
    reply = vector_api.request("POST", path, {"model": "m/score", **fields})
    assert (reply.status, reply.json["error"]["param"]) == (400, param)


def test_a_model_that_writes_scores_nothing(vector_api):
    body = {"model": "m/text", "query": "q", "documents": ["d"]}
    reply = vector_api.request("POST", "/v1/rerank", body)
    assert (reply.status, reply.json["error"]["code"]) == (400, "unsupported_model")


def test_a_query_counts_with_each_of_its_documents(vector_api, vector_workers):
    body = {"model": "m/score", "query": "x" * 40, "documents": ["y" * 8, "z" * 8]}
    job_id = vector_api.request("POST", "/v1/rerank", body).headers["x-job-id"]
    assert vector_workers["m/score"].specs[job_id].prompt_tokens == 2 * (10 + 2)


def test_the_bounds_on_tokens_reach_the_worker(vector_api, vector_workers):
    body = {"model": "m/score", "query": "q", "documents": ["d"], "max_tokens_per_doc": 9}
    reply = vector_api.request("POST", "/v2/rerank", {**body, "truncate_prompt_tokens": 20})
    spec = vector_workers["m/score"].specs[reply.headers["x-job-id"]]
    assert (spec.max_document_tokens, spec.max_input_tokens) == (9, 20)
