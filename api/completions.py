"""POST /v1/completions. Knows the request and how it becomes a job, not how a job is run."""

import time

from api.endpoint import Endpoint
from api.generation import Generation, new_id
from api.schema.completion import CompletionRequest
from workers import contract


class Completions(Endpoint[CompletionRequest]):
    """The text endpoint."""

    def __init__(self, generation: Generation) -> None:
        super().__init__(generation, CompletionRequest, completion_job)


def completion_job(
    request: CompletionRequest, card: contract.ModelCard, home: str, request_id: str
) -> contract.Job:
    """The job that continues one or more prompts. Raises ApiError."""
    return contract.Job(
        id=new_id("cmpl"),
        kind="completion",
        model=card.name,
        home=home,
        created_s=int(time.time()),
        request_id=request_id,
        sampling=request.sampling(request.token_limit, card.vocab_size),
        n=request.num_written,
        best=(request.n or 1) if request.chooses else 0,
        hides_logprobs=request.logprobs is None,
        prompts=request.wire_prompts(card.vocab_size),
        shows_prompt=bool(request.echo),
        constraint=request.constraint(),
        stream=bool(request.stream),
        include_usage=request.has_usage,
        includes_usage_always=request.has_usage_always,
        metadata=request.metadata or {},
    )
