"""POST /tokenize, /detokenize and /apply-template: what a worker's tokenizer and template say.

No jobs: nothing is generated, and nothing counts for a tenant's token limits.
"""

from collections.abc import Collection

import msgspec
from falcon.asgi import Request, Response

from api.chat import chat_job
from api.directory import ANY_TASK, GENERATES
from api.errors import ApiError
from api.generation import Generation, send_json
from api.schema.chat import ChatRequest
from api.schema.decode import decode_body
from api.schema.sampling import check_token_ids
from api.schema.tokens import (
    Detokenized,
    DetokenizeRequest,
    Piece,
    Rendered,
    Tokenized,
    TokenizeRequest,
)
from workers.contract import Job, ModelCard, Task
from workers.questions import Detokenize, Render, Reply, Subject, Tokenize


class Asking:
    """How a request's question gets to a worker that serves its model."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self._chats = msgspec.json.Decoder(ChatRequest)

    async def card(self, model: str, tasks: Collection[Task] = GENERATES) -> ModelCard:
        """The model that a request means, if a worker of it lives. Raises ApiError."""
        card = await self.generation.card(model, tasks)
        directory = await self.generation.broker.directory()
        if not directory.has_worker(card.name):
            what = f"No worker serves '{card.name}' at the moment; try again soon."
            raise ApiError("no_workers", what)
        return card

    async def ask(self, card: ModelCard, subject: Subject, *, wants_pieces: bool = False) -> Reply:
        """What a worker says. Raises ApiError."""
        asker = self.generation.broker.asker
        return await asker.ask(card.queue, subject, wants_pieces=wants_pieces)

    async def chat(self, req: Request, data: bytes) -> tuple[ModelCard, Job]:
        """The job that this body would be on the chat endpoint. Raises ApiError."""
        request = decode_body(self._chats, data)
        card = await self.card(request.model)
        home = self.generation.broker.api_id
        return card, chat_job(request, card, home, req.context.request_id)


class Tokenizes:
    """POST /tokenize: the ids of a text, or of a chat as its template shows it."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._decoder = msgspec.json.Decoder(TokenizeRequest)

    async def on_post(self, req: Request, resp: Response) -> None:
        """Ask a worker."""
        data = await self._asking.generation.read(req)
        request = decode_body(self._decoder, data)
        request.check()
        card, subject = await self._subject(req, request, data)
        reply = await self._asking.ask(card, subject, wants_pieces=request.wants_pieces)
        send_json(resp, _tokenized(request, reply, card))

    async def _subject(
        self, req: Request, request: TokenizeRequest, data: bytes
    ) -> tuple[ModelCard, Subject]:
        if request.is_chat:
            card, job = await self._asking.chat(req, data)
            return card, Render(job, is_tokenized=True)
        card = await self._asking.card(request.model, ANY_TASK)
        return card, Tokenize(request.text, request.adds_special_tokens)


class Detokenizes:
    """POST /detokenize: the text of token ids."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._decoder = msgspec.json.Decoder(DetokenizeRequest)

    async def on_post(self, req: Request, resp: Response) -> None:
        """Ask a worker."""
        request = decode_body(self._decoder, await self._asking.generation.read(req))
        card = await self._asking.card(request.model, ANY_TASK)
        check_token_ids(request.tokens, card.vocab_size, "tokens")
        reply = await self._asking.ask(card, Detokenize(request.tokens))
        send_json(resp, Detokenized(reply.text, reply.text))


class Templates:
    """POST /apply-template: a chat as the model reads it."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def on_post(self, req: Request, resp: Response) -> None:
        """Ask a worker."""
        card, job = await self._asking.chat(req, await self._asking.generation.read(req))
        reply = await self._asking.ask(card, Render(job, is_tokenized=False))
        send_json(resp, Rendered(reply.text))


def _tokenized(request: TokenizeRequest, reply: Reply, card: ModelCard) -> Tokenized:
    ids, pieces = reply.token_ids, reply.pieces
    return Tokenized(
        len(ids),
        card.context_length,
        [Piece.of(*pair) for pair in zip(ids, pieces, strict=True)] if request.with_pieces else ids,
        [p.decode("utf-8", "replace") for p in pieces] if request.return_token_strs else None,
    )
