"""The Batches endpoints: create, look up, list, cancel. Knows no line and no key in Redis."""

from collections.abc import Collection

import msgspec
from falcon.asgi import Request, Response

from api.batch.state import Batch, BatchState
from api.batch.store import BatchStore, is_batch_id, missing, new_batch_id
from api.errors import ApiError
from api.exchange import exchange_of
from api.file_store import FileStore, StoredFile, missing as missing_file
from api.generation import Generation, send_json
from api.hooks.callback import HEADER, webhook_url
from api.idempotency import tell_earlier
from api.params import limit_of
from api.schema.batch import (
    DEFAULT_PAGE,
    MAX_PAGE,
    WINDOW_S,
    BatchList,
    CreateBatch,
)
from api.schema.decode import decode_body


class Batches:
    """/v1/batches and what is under it. `endpoints` are the routes that a batch may ask."""

    def __init__(
        self,
        store: BatchStore,
        files: FileStore,
        generation: Generation,
        endpoints: Collection[str],
    ) -> None:
        self._store = store
        self._files = files
        self._generation = generation
        self._endpoints = endpoints
        self._decoder = msgspec.json.Decoder(CreateBatch)

    async def on_post(self, req: Request, resp: Response) -> None:
        """Begin a batch; its input is checked in the background."""
        data = await self._generation.read(req)
        once = self._generation.once(req)
        known = await self._generation.keys.find(once)
        if known is None:
            batch = await self._requested(req, decode_body(self._decoder, data))
            known = await self._store.create(batch, once)
            if known == batch.id:
                send_json(resp, BatchState(batch=batch, status="validating").view())
                return
        tell_earlier(resp)
        send_json(resp, (await self._find(req, known)).view())

    async def on_get(self, req: Request, resp: Response) -> None:
        """List the tenant's batches, newest first."""
        after = req.get_param("after")
        limit = limit_of(req, DEFAULT_PAGE, MAX_PAGE)
        page = await self._store.page(req.context.tenant.name, limit=limit, after=after)
        ids = [batch.id for batch in page.batches]
        first, last = (ids[0], ids[-1]) if ids else (None, None)
        send_json(resp, BatchList(page.batches, first, last, page.has_more))

    async def on_get_one(self, req: Request, resp: Response, batch_id: str) -> None:
        """Say how far a batch is."""
        send_json(resp, (await self._find(req, batch_id)).view())

    async def on_post_cancel(self, req: Request, resp: Response, batch_id: str) -> None:
        """Give a batch up: what is done is kept, what runs is cancelled."""
        await self._find(req, batch_id)
        await self._store.cancel(batch_id)
        state = await self._find(req, batch_id)
        if state.ending != "cancelled":
            what = f"Cannot cancel a batch with status '{state.status}'."
            raise ApiError("conflict", what)
        send_json(resp, state.view())

    async def _find(self, req: Request, batch_id: str) -> BatchState:
        state = await self._store.state(batch_id) if is_batch_id(batch_id) else None
        if state is None or state.batch.tenant != req.context.tenant.name:
            raise missing(batch_id)
        return state

    async def _requested(self, req: Request, request: CreateBatch) -> Batch:
        if request.endpoint not in self._endpoints:
            known = ", ".join(sorted(self._endpoints))
            what = f"A batch can be for {known}, not for '{request.endpoint}'."
            raise ApiError("invalid_value", what, "endpoint")
        file = await self._files.get(req.context.tenant.name, request.input_file_id)
        if file is None:
            raise missing_file(request.input_file_id, "input_file_id")
        if file.view.purpose != "batch":
            what = f"The purpose of the input file must be 'batch', not '{file.view.purpose}'."
            raise ApiError("invalid_value", what, "input_file_id")
        url = webhook_url(req.get_header(HEADER), req.context.tenant, self._generation.config)
        return self._batch(request, file, url, exchange_of(req).trace)

    def _batch(
        self, request: CreateBatch, file: StoredFile, webhook: str, trace: dict[str, str]
    ) -> Batch:
        now_s = int(self._files.clock())
        expiry = request.output_expires_after
        return Batch(
            id=new_batch_id(),
            tenant=file.tenant,
            endpoint=request.endpoint,
            input_file_id=file.view.id,
            num_pieces=file.num_pieces,
            completion_window=request.completion_window,
            created_at=now_s,
            expires_at=now_s + WINDOW_S,
            metadata=request.metadata,
            output_ttl_s=0 if expiry is None else expiry.seconds,
            webhook=webhook,
            trace=trace,
        )
