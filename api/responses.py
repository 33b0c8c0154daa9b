"""/v1/responses: make a response, look at it, follow, stop and delete it.

Knows HTTP and where each answer comes from, not how a job is run or rendered.
"""

import msgspec
from falcon.asgi import Request, Response

from api.broker import JobView
from api.errors import ApiError
from api.follow import follow
from api.generation import Generation, send_json
from api.params import after_of, is_newest_first, limit_of
from api.response.conversation import echo_of, items_of
from api.response.item import Item
from api.response.job import new_response_id, response_job
from api.response.store import ResponseStore
from api.response.stream import ResponseFrames
from api.response.view import ResponseView
from api.schema.decode import decode_body
from api.schema.response_items import ItemList
from api.schema.response_object import Deleted, InputCount
from api.schema.responses import ResponsesRequest
from api.stream import WAITING
from api.tokens import Asking
from workers import contract
from workers.questions import Render

MAX_PAGE, PAGE = 100, 20


class Responses:
    """POST /v1/responses."""

    def __init__(self, generation: Generation, store: ResponseStore) -> None:
        self._generation = generation
        self._store = store
        self._decoder = msgspec.json.Decoder(ResponsesRequest)

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer whole, as a stream, or at once while the work goes on."""
        generation = self._generation
        data = await generation.read(req)
        if (earlier := await generation.earlier(req, resp)) is not None:
            await self._replay(req, resp, earlier)
            return
        request = self.decode(data)
        card = await generation.card(request.model)
        job = await self.job(req, request, card)
        tier = request.service_tier
        if job.is_detached and not job.stream:
            answering = await generation.submit(req, resp, job, card, tier=tier)
            is_new = answering.id == job.id
            view = ResponseView(answering) if is_new else await self._store.read(answering)
            send_json(resp, view.response())
        else:
            await generation.run(req, resp, job, card, tier=tier)

    async def _replay(self, req: Request, resp: Response, job: contract.Job) -> None:
        if echo_of(job).is_background and not job.stream:
            send_json(resp, (await self._store.read(job)).response())
        else:
            await self._generation.replay(req, resp, job)

    def decode(self, data: bytes) -> ResponsesRequest:
        """The request of a body. Raises ApiError."""
        request = decode_body(self._decoder, data)
        request.check()
        return request

    async def job(
        self, req: Request, request: ResponsesRequest, card: contract.ModelCard
    ) -> contract.Job:
        """The job that answers a request after the turns before it. Raises ApiError."""
        config, tenant = self._generation.config, req.context.tenant.name
        response_id = new_response_id()
        items = await self._store.conversation(
            request, response_id, tenant, max_bytes=config.max_body_bytes
        )
        return response_job(
            request,
            response_id,
            items,
            card,
            home=self._generation.broker.api_id,
            request_id=req.context.request_id,
            tenant=tenant,
            store_ttl_s=config.store_ttl_s,
        )


class InputTokens:
    """POST /v1/responses/input_tokens: how many tokens a response would have to read."""

    def __init__(self, asking: Asking, responses: Responses) -> None:
        self._asking = asking
        self._responses = responses

    async def on_post(self, req: Request, resp: Response) -> None:
        """Ask a worker."""
        request = self._responses.decode(await self._asking.generation.read(req))
        card = await self._asking.card(request.model)
        job = await self._responses.job(req, request, card)
        reply = await self._asking.ask(card, Render(job, is_tokenized=True))
        send_json(resp, InputCount(len(reply.token_ids)))


class StoredResponse:
    """One response that was stored."""

    def __init__(self, generation: Generation, store: ResponseStore) -> None:
        self._broker = generation.broker
        self._jobs = generation.jobs
        self._store = store

    async def on_get(self, req: Request, resp: Response, response_id: str) -> None:
        """The response at this moment, or its stream behind an event."""
        view = await self._find(req, response_id)
        resp.set_header("x-job-id", response_id)
        if not req.get_param_as_bool("stream", default=False):
            send_json(resp, (await self._store.read(view.job)).response())
            return
        frames = ResponseFrames(view.job, after=after_of(req))
        if view.last_number is None:
            follow(self._broker, req, resp, view.job, frames)
        else:
            await self._replay(resp, view.job, frames, after_of(req))

    async def on_delete(self, req: Request, resp: Response, response_id: str) -> None:
        """Let nobody read the response any more; one that runs is cancelled first."""
        await self._stop(await self._find(req, response_id))
        await self._broker.forget(response_id)
        send_json(resp, Deleted(response_id))

    async def on_post_cancel(self, req: Request, resp: Response, response_id: str) -> None:
        """Stop a background response and show what became of it, again and again."""
        view = await self._find(req, response_id)
        if not echo_of(view.job).is_background:
            what = "Only a background response can be cancelled; to stop another, disconnect."
            raise ApiError("invalid_value", what, "response_id")
        await self._stop(view)
        send_json(resp, (await self._store.read(view.job)).response())

    async def on_get_items(self, req: Request, resp: Response, response_id: str) -> None:
        """A page of what was put in, the newest first unless `order` is `asc`."""
        view = await self._find(req, response_id)
        items = items_of(view.job)
        if is_newest_first(req):
            items.reverse()
        send_json(resp, _page(items, limit_of(req, PAGE, MAX_PAGE), req.get_param("after")))

    async def _stop(self, view: JobView) -> None:
        if view.last_number is None:
            await self._jobs.stop(view.job)

    async def _find(self, req: Request, response_id: str) -> JobView:
        return await self._store.find(response_id, req.context.tenant.name)

    async def _replay(
        self, resp: Response, job: contract.Job, frames: ResponseFrames, after: int
    ) -> None:
        """The stream of a response that has ended needs nobody to follow it."""
        data = frames.render(await self._broker.read_log(job.id))
        if after > frames.last_number:
            what = f"The response has ended with event {frames.last_number}; there is no {after}."
            raise ApiError("invalid_value", what, "starting_after")
        resp.content_type = "text/event-stream; charset=utf-8"
        resp.set_header("cache-control", "no-cache, no-transform")
        resp.data = data or WAITING


def _page(items: list[Item], limit: int, after: str | None) -> ItemList:
    if after is not None:
        index = next((i for i, item in enumerate(items) if item.id == after), None)
        if index is None:
            raise ApiError("invalid_value", "'after' is no item of this response.", "after")
        items = items[index + 1 :]
    page = [item.view() for item in items[:limit]]
    first, last = (page[0].id, page[-1].id) if page else ("", "")
    return ItemList(page, first, last, len(items) > limit)
