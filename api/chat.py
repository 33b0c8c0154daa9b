"""POST /v1/chat/completions. Knows the request and how it becomes a job, not how a job is run."""

import time

from api.endpoint import Endpoint
from api.generation import Generation, new_id
from api.schema.chat import ChatRequest
from workers import contract


class ChatCompletions(Endpoint[ChatRequest]):
    """The chat endpoint."""

    def __init__(self, generation: Generation) -> None:
        super().__init__(generation, ChatRequest, chat_job)


def chat_job(
    request: ChatRequest, card: contract.ModelCard, home: str, request_id: str
) -> contract.Job:
    """The job that answers a conversation. Raises ApiError."""
    wanted = request.wanted_tools()
    is_one = wanted.is_one or request.parallel_tool_calls is False
    return contract.Job(
        id=new_id("chatcmpl"),
        kind="chat",
        model=card.name,
        home=home,
        created_s=int(time.time()),
        request_id=request_id,
        sampling=request.sampling(request.token_limit, card.vocab_size),
        n=request.n or 1,
        messages=request.wire_messages(),
        template_kwargs=request.template_kwargs(),
        continues_message=request.continues_message(),
        tools=wanted.tools,
        max_calls=1 if is_one else None,
        must_call=wanted.must_call,
        strict_tools=wanted.strict,
        constraint=request.constraint(),
        tells_reasoning=True,
        stream=bool(request.stream),
        include_usage=request.has_usage,
        includes_usage_always=request.has_usage_always,
        metadata=request.metadata or {},
    )
