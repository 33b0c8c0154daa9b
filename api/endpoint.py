"""A POST route whose body becomes a job: what such routes have in common.

Knows neither the body nor how a job is run.
"""

from collections.abc import Callable, Collection
from typing import Generic, TypeVar

import msgspec
from falcon.asgi import Request, Response

from api.directory import GENERATES
from api.generation import Generation
from api.schema.decode import decode_body
from api.schema.sampling import SamplingFields
from api.schema.vectors import VectorFields
from workers import contract

T = TypeVar("T", bound=SamplingFields | VectorFields)

# Makes a job of a request, for this model; the last arguments are its home and the request id.
MakeJob = Callable[[T, contract.ModelCard, str, str], contract.Job]


class Endpoint(Generic[T]):
    """One route, for models of these tasks; `make_job` may raise ApiError."""

    def __init__(
        self,
        generation: Generation,
        request_type: type[T],
        make_job: MakeJob[T],
        tasks: Collection[contract.Task] = GENERATES,
    ) -> None:
        self._generation = generation
        self._decoder = msgspec.json.Decoder(request_type)
        self._make_job = make_job
        self._tasks = tasks

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer whole, as a stream, or at once while the work goes on."""
        generation = self._generation
        data = await generation.read(req)
        if (earlier := await generation.earlier(req, resp)) is not None:
            await generation.replay(req, resp, earlier)
            return
        request = decode_body(self._decoder, data)
        card = await generation.card(request.model, self._tasks)
        job = self._make_job(request, card, generation.broker.api_id, req.context.request_id)
        job = await self.prepared(req, request, job)
        await generation.run(req, resp, job, card, tier=request.service_tier)

    async def prepared(self, req: Request, request: T, job: contract.Job) -> contract.Job:
        """The job as it is put into the queue. Raises ApiError."""
        return job
