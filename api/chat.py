"""POST /v1/chat/completions. Knows the request and how it becomes a job, not how a job is run."""

import time

import msgspec
from falcon.asgi import Request, Response

from api.generation import Generation, new_id
from api.schema.chat import ChatRequest
from workers import contract


class ChatCompletions:
    """The chat endpoint."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._decoder = msgspec.json.Decoder(ChatRequest)

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer a conversation, whole or as a stream."""
        request = await self._generation.decode(req, self._decoder)
        card = await self._generation.card(request.model)
        job = self._job(request, card, req.context.request_id)
        await self._generation.run(req, resp, job, card)

    def _job(self, request: ChatRequest, card: contract.ModelCard, request_id: str) -> contract.Job:
        return contract.Job(
            id=new_id("chatcmpl"),
            kind="chat",
            model=card.name,
            home=self._generation.broker.api_id,
            created_s=int(time.time()),
            request_id=request_id,
            sampling=request.sampling(request.token_limit, card.vocab_size),
            n=request.n or 1,
            messages=request.wire_messages(),
            template_kwargs=request.template_kwargs(),
            stream=bool(request.stream),
            include_usage=request.has_usage,
        )
