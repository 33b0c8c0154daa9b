"""Real workers with a small BERT and a small cross-encoder, the API, and the openai client."""

import json
import re
import signal
import tempfile
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)

WORDS = re.findall(
    r"\w+", "The quick brown fox jumps over a lazy dog; Paris, Rome and London sleep."
)
TEXTS = [" ".join(WORDS[i : i + 1 + i % 7]) for i in range(12)]
SIZE = 32


def make_tokenizer() -> PreTrainedTokenizerFast:
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = tokenizers.decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=80, special_tokens=specials, show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), specials, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def save_embedder(directory: Path, model: BertModel) -> None:
    """As sentence-transformers does: the mean of the states, scaled to length 1."""
    model.save_pretrained(directory)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": SIZE, "pooling_mode_mean_tokens": True}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


class Fleet:
    """A deployment that serves both, and the same models in transformers."""

    def __init__(self, stack, directory: Path) -> None:
        torch.manual_seed(0)
        sizes = {"hidden_size": SIZE, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = BertConfig(
            vocab_size=80, intermediate_size=64, max_position_embeddings=64, **sizes
        )
        names = ("embedder", "scorer")
        self.directories = {name: directory / name for name in names}
        self.tokenizer = make_tokenizer()  # training is not the same twice
        for path in self.directories.values():
            self.tokenizer.save_pretrained(path)
        self.bert = BertModel(config).eval()
        # as wide as random weights give scores that differ
        config = BertConfig.from_dict(
            {**config.to_dict(), "num_labels": 1, "initializer_range": 0.4}
        )
        self.scorer = BertForSequenceClassification(config).eval()
        save_embedder(self.directories["embedder"], self.bert)
        self.scorer.save_pretrained(self.directories["scorer"])
        self.stack = stack
        self.workers = {name: self.start_worker(name) for name in names}
        self.url, _ = stack.start_api()

    def start_worker(self, name: str):
        model = {"TRAMONTANE_MODEL": str(self.directories[name]), "TRAMONTANE_MODEL_NAME": name}
        return self.stack.start("worker", **model)

    def tasks(self) -> dict[str, str]:
        try:
            models = httpx2.get(self.url + "/v1/models", timeout=2).json()["data"]
        except httpx2.TransportError:
            return {}
        return {model["id"]: model["task"] for model in models}

    @torch.inference_mode()
    def embedding(self, text: str, **cut: Any) -> np.ndarray:
        tokens = self.tokenizer(text, return_tensors="pt", **cut)
        states = self.bert(**tokens).last_hidden_state[0]
        mean = states.double().mean(0)
        scaled: np.ndarray = (mean / mean.norm()).numpy()
        return scaled

    @torch.inference_mode()
    def score(self, query: str, document: str) -> float:
        logits = self.scorer(**self.tokenizer(query, document, return_tensors="pt")).logits
        return float(torch.sigmoid(logits.double()))


@pytest.fixture(scope="module")
def fleet(_shared_redis, new_stack, wait):
    with (
        tempfile.TemporaryDirectory(prefix="tr-") as data,
        tempfile.TemporaryDirectory(prefix="tr-e2e-") as directory,
    ):
        server = type(_shared_redis)(Path(data))
        server.start()
        own = new_stack(server.url, Path(directory))
        try:
            fleet = Fleet(own, Path(directory))
            wait(lambda: len(fleet.tasks()) == 2, "both models are served", 90)
            yield fleet
        except AssertionError as error:
            raise AssertionError(f"{error}\n{own.logs()}") from None
        finally:
            own.stop()
            server.stop()


@pytest.fixture
def client(fleet):
    with openai.OpenAI(base_url=fleet.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_what_a_model_is_for_is_found_in_its_files(fleet):
    assert fleet.tasks() == {"embedder": "embed", "scorer": "score"}


def test_embeddings_are_those_of_transformers_and_come_in_order(fleet, client):
    answer = client.embeddings.create(model="embedder", input=TEXTS)
    for text, item in zip(TEXTS, answer.data, strict=True):
        assert item.embedding == pytest.approx(fleet.embedding(text), abs=1e-5)
    assert answer.usage.prompt_tokens == sum(len(fleet.tokenizer(t).input_ids) for t in TEXTS)


def test_token_ids_and_dimensions_and_floats(fleet, client):
    ids = fleet.tokenizer(TEXTS[5]).input_ids
    options = {"model": "embedder", "encoding_format": "float", "dimensions": 8}
    (item,) = client.embeddings.create(input=ids, **options).data
    cut = fleet.embedding(TEXTS[5])[:8]
    assert item.embedding == pytest.approx(cut / np.linalg.norm(cut), abs=1e-5)


def test_a_text_beyond_the_model_s_positions_is_refused_or_cut(fleet, client):
    long = "fox " * 100
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="embedder", input=["fox", long])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
    count = len(fleet.tokenizer(long).input_ids)
    assert f"Input 1 has {count} tokens; this model takes 64" in caught.value.message
    for asked, length in ((-1, 64), (9, 9)):
        cut = {"truncate_prompt_tokens": asked}
        (item,) = client.embeddings.create(model="embedder", input=long, extra_body=cut).data
        expected = fleet.embedding(long, truncation=True, max_length=length)
        assert item.embedding == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("model", ["embedder", "scorer"])
def test_a_ranking_is_by_the_scorer_or_by_the_cosine(fleet, model):
    query, documents = TEXTS[3], TEXTS[4:]
    body = {"model": model, "query": query, "documents": documents, "top_n": 4}
    results = httpx2.post(fleet.url + "/v1/rerank", json=body, timeout=30).json()["results"]
    if model == "scorer":
        scores = [fleet.score(query, document) for document in documents]
    else:
        scores = [float(fleet.embedding(query) @ fleet.embedding(d)) for d in documents]
    best = sorted(range(len(documents)), key=scores.__getitem__, reverse=True)[:4]
    assert [result["index"] for result in results] == best
    assert [result["document"]["text"] for result in results] == [documents[i] for i in best]
    shown = [result["relevance_score"] for result in results]
    assert shown == pytest.approx([scores[i] for i in best], abs=1e-5)


def test_a_scorer_s_scores_differ_with_the_order_of_a_pair(fleet):
    pairs = {"text_1": [TEXTS[3], TEXTS[9]], "text_2": [TEXTS[9], TEXTS[3]]}
    reply = httpx2.post(fleet.url + "/v1/score", json={"model": "scorer", **pairs}, timeout=30)
    scores = [item["score"] for item in reply.json()["data"]]
    expected = [fleet.score(TEXTS[3], TEXTS[9]), fleet.score(TEXTS[9], TEXTS[3])]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3


def test_a_model_of_embeddings_does_not_chat(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="embedder", messages=[{"role": "user", "content": "?"}]
        )
    assert caught.value.code == "unsupported_model"


def test_a_worker_that_is_killed_costs_no_vector(fleet, wait):
    texts = [" ".join(WORDS[i % 9 :]) + f" {i}" for i in range(2048)]
    body = {"model": "embedder", "input": texts, "encoding_format": "float"}
    headers = {"Prefer": "respond-async"}
    reply = httpx2.post(fleet.url + "/v1/embeddings", json=body, headers=headers, timeout=30)
    where = fleet.url + reply.headers["location"]

    def has_begun():
        return bool((httpx2.get(where, timeout=30).json()["partial"] or {}).get("data"))

    wait(has_begun, "the first vectors are there", 60)
    fleet.workers["embedder"].send_signal(signal.SIGKILL)
    fleet.workers["embedder"].wait()
    fleet.workers["embedder"] = fleet.start_worker("embedder")
    job = {}

    def has_ended():
        job.update(httpx2.get(where + "?wait=20", timeout=40).json())
        return job["state"] not in ("queued", "running")

    wait(has_ended, "the job's end", 120)
    assert job["state"] == "completed"
    data = job["result"]["data"]
    assert [item["index"] for item in data] == list(range(2048))
    for i in (0, 700, 2047):
        assert data[i]["embedding"] == pytest.approx(fleet.embedding(texts[i]), abs=1e-5)
