"""The endpoints that a batch may ask: how the body of a line becomes a job of the lowest class.

Knows no Redis and no file.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from api.chat import chat_job
from api.completions import completion_job
from api.directory import EMBEDS
from api.errors import ApiError
from api.generation import Generation
from api.response.conversation import ENDPOINT as RESPONSES
from api.response.job import response_job
from api.response.store import ResponseStore
from api.schema.chat import ChatRequest
from api.schema.completion import CompletionRequest
from api.schema.decode import decode_body
from api.schema.responses import ResponsesRequest
from api.schema.sampling import SamplingFields
from api.schema.vectors import EmbeddingRequest, VectorFields
from api.vectors import embedding_job
from workers import contract

HOME = "batch"  # no API process: nobody follows these tokens as they are made
RESULT_TTL_S = 24 * 3600  # an answer outlives its end until some API process has put it into a file

T = TypeVar("T", bound=SamplingFields | VectorFields)
CardOf = Callable[[str], Awaitable[contract.ModelCard]]


class Ticket(NamedTuple):
    """What a line's job must be, whatever its body says."""

    job_id: str
    tenant: str
    batch: str
    number: int
    endpoint: str
    trace: dict[str, str]

    @property
    def request_id(self) -> str:
        """What logs and output files call the request."""
        return f"req_{self.job_id}"


class Prepared(NamedTuple):
    """A job, and the queue that it goes to."""

    job: contract.Job
    queue: str


class Endpoint(Protocol):
    """Makes jobs of one endpoint's requests."""

    async def prepare(self, body: bytes, ticket: Ticket) -> Prepared:
        """The job of a request. Raises ApiError as the endpoint itself would."""
        ...


class Lines(Generic[T]):
    """Lines for an endpoint whose request alone says what the job is."""

    def __init__(
        self,
        card_of: CardOf,
        kind: type[T],
        job_of: Callable[[T, contract.ModelCard, str, str], contract.Job],
    ) -> None:
        self._card_of = card_of
        self._decoder = msgspec.json.Decoder(kind)
        self._job_of = job_of

    async def prepare(self, body: bytes, ticket: Ticket) -> Prepared:
        """The job of a request. Raises ApiError."""
        request = decode_body(self._decoder, body)
        if isinstance(request, SamplingFields):
            refuse_stream(request)
        card = await self._card_of(request.model)
        job = self._job_of(request, card, HOME, ticket.request_id)
        return Prepared(as_line(job, ticket), card.queue)


class ResponseLines:
    """Lines for /v1/responses. Nothing of them is stored but in the output file."""

    def __init__(self, card_of: CardOf, store: ResponseStore, max_bytes: int) -> None:
        self._card_of = card_of
        self._store = store
        self._max_bytes = max_bytes
        self._decoder = msgspec.json.Decoder(ResponsesRequest)

    async def prepare(self, body: bytes, ticket: Ticket) -> Prepared:
        """The job of a request, after the stored turns that it goes on from. Raises ApiError."""
        request = decode_body(self._decoder, body)
        refuse_stream(request)
        if request.background:
            what = "A line of a batch cannot run in the background of another."
            raise ApiError("unsupported_parameter", what, "background")
        request = msgspec.structs.replace(request, store=False)
        request.check()
        card = await self._card_of(request.model)
        items = await self._store.conversation(
            request, ticket.job_id, ticket.tenant, max_bytes=self._max_bytes
        )
        job = response_job(
            request,
            ticket.job_id,
            items,
            card,
            home=HOME,
            request_id=ticket.request_id,
            tenant=ticket.tenant,
            store_ttl_s=0,
        )
        return Prepared(as_line(job, ticket), card.queue)


def endpoints(generation: Generation) -> Mapping[str, Endpoint]:
    """The endpoints that a batch may ask, by route."""
    card_of, max_bytes = generation.card, generation.config.max_body_bytes
    return {
        "/v1/chat/completions": Lines(card_of, ChatRequest, chat_job),
        "/v1/completions": Lines(card_of, CompletionRequest, completion_job),
        contract.EMBEDDINGS: Lines(partial(card_of, tasks=EMBEDS), EmbeddingRequest, embedding_job),
        RESPONSES: ResponseLines(card_of, ResponseStore(generation.broker), max_bytes),
    }


def refuse_stream(request: SamplingFields) -> None:
    """Raise ApiError for a line that wants a stream: a file cannot."""
    if request.stream:
        what = "A line of a batch cannot be streamed."
        raise ApiError("unsupported_parameter", what, "stream")


def as_line(job: contract.Job, ticket: Ticket) -> contract.Job:
    """The job as the line that it is: it waits for idle capacity and runs on by itself."""
    return msgspec.structs.replace(
        job,
        id=ticket.job_id,
        home=HOME,
        request_id=ticket.request_id,
        tenant=ticket.tenant,
        service_class="batch",
        endpoint=ticket.endpoint,
        is_detached=True,
        result_ttl_s=RESULT_TTL_S,
        batch=ticket.batch,
        line=ticket.number,
        trace=ticket.trace,
        stream=False,
        include_usage=False,
    )
