"""Anthropic's POST /v1/messages and /v1/messages/count_tokens, for its unchanged clients.

Knows HTTP, not how a job is run or rendered.
"""

import msgspec
from falcon.asgi import Request, Response

from api.anthropic.job import messages_job, prompt_job
from api.generation import Generation, send_json
from api.schema.anthropic import CountRequest, MessagesRequest
from api.schema.anthropic_object import Count
from api.schema.decode import decode_body
from api.tokens import Asking
from workers.questions import Render


class Messages:
    """The next turn of a conversation."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._decoder = msgspec.json.Decoder(MessagesRequest)

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer whole, as a stream, or at once while the work goes on."""
        generation = self._generation
        data = await generation.read(req)
        if (earlier := await generation.earlier(req, resp)) is not None:
            await generation.replay(req, resp, earlier)
            return
        request = decode_body(self._decoder, data)
        card = await generation.card(request.model)
        job = messages_job(request, card, generation.broker.api_id, req.context.request_id)
        await generation.run(req, resp, job, card, tier=request.tier)


class CountTokens:
    """How many tokens a conversation has as a prompt."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._decoder = msgspec.json.Decoder(CountRequest)

    async def on_post(self, req: Request, resp: Response) -> None:
        """Ask a worker."""
        generation = self._asking.generation
        request = decode_body(self._decoder, await generation.read(req))
        card = await self._asking.card(request.model)
        job = prompt_job(request, card, generation.broker.api_id, req.context.request_id)
        reply = await self._asking.ask(card, Render(job, is_tokenized=True))
        send_json(resp, Count(len(reply.token_ids)))
