"""POST /v1/embeddings, /v1/score and /v1/rerank. Knows the requests and how they become jobs, not
how a job is run.

A scorer scores pairs; a model of embeddings does it by the cosine of theirs, as in vLLM.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from api.directory import EMBEDS, SCORES
from api.endpoint import Endpoint
from api.errors import ApiError
from api.generation import Generation, new_id
from api.schema.vectors import EmbeddingRequest, RerankRequest, ScoreRequest, VectorFields
from workers import contract

_COHERE = "/v2/rerank"  # whose answers have no documents unless they are asked for


def resources(generation: Generation) -> Mapping[str, Endpoint[Any]]:
    """What serves each route."""
    scores = Endpoint(generation, ScoreRequest, score_job, SCORES)
    return {
        contract.EMBEDDINGS: Endpoint(generation, EmbeddingRequest, embedding_job, EMBEDS),
        **dict.fromkeys(contract.SCORES, scores),
        **{
            path: Endpoint(generation, RerankRequest, rerank_job(path), SCORES)
            for path in contract.RERANKS
        },
    }


def embedding_job(
    request: EmbeddingRequest, card: contract.ModelCard, home: str, request_id: str
) -> contract.Job:
    """The job that makes vectors of inputs. Raises ApiError."""
    request.check_size(card.vector_size)
    return _job(
        request,
        card,
        "embd",
        home=home,
        request_id=request_id,
        kind="embedding",
        prompts=request.prompts(card.vocab_size),
        echo={"format": request.encoding_format or "float", "dimensions": request.dimensions},
    )


def score_job(
    request: ScoreRequest, card: contract.ModelCard, home: str, request_id: str
) -> contract.Job:
    """The job that scores pairs. Raises ApiError."""
    queries, documents = request.pairs()
    return _pairs_job(request, card, "score", queries, documents, home=home, request_id=request_id)


def rerank_job(
    route: str,
) -> Callable[[RerankRequest, contract.ModelCard, str, str], contract.Job]:
    """What makes the job of a request on this route. It raises ApiError."""

    def make(
        request: RerankRequest, card: contract.ModelCard, home: str, request_id: str
    ) -> contract.Job:
        shows = route != _COHERE if request.return_documents is None else request.return_documents
        return _pairs_job(
            request,
            card,
            "rerank",
            [request.query],
            request.texts(),
            home=home,
            request_id=request_id,
            max_document_tokens=request.max_tokens_per_doc or 0,
            echo={"top_n": request.top_n or 0, "documents": shows},
        )

    return make


def _pairs_job(
    request: VectorFields,
    card: contract.ModelCard,
    prefix: str,
    queries: list[str],
    documents: list[str],
    **fields: Any,
) -> contract.Job:
    is_scorer = card.task == "score"
    if is_scorer and card.vector_size != 1:
        what = f"The model '{card.name}' has {card.vector_size} labels; a scorer has one."
        raise ApiError("unsupported_model", what, "model")
    return _job(
        request,
        card,
        prefix,
        kind="score" if is_scorer else "embedding",
        prompts=[*queries, *documents],
        num_queries=len(queries),
        **fields,
    )


def _job(
    request: VectorFields, card: contract.ModelCard, prefix: str, **fields: Any
) -> contract.Job:
    return contract.Job(
        id=new_id(prefix),
        model=card.name,
        created_s=int(time.time()),
        sampling=contract.Sampling(seed=0),  # nothing is sampled
        max_input_tokens=request.truncate_prompt_tokens or 0,
        metadata=request.metadata or {},
        **fields,
    )
