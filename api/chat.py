"""/v1/chat/completions: make one, and look at those that were stored.

Knows the request and how it becomes a job, not how a job is run.
"""

import contextlib
import time

from falcon.asgi import Request, Response

from api.chat_store import ChatStore, Wanted
from api.endpoint import Endpoint
from api.generation import Generation, new_id, send_json
from api.params import is_newest_first, limit_of
from api.schema.chat import ChatRequest
from api.schema.response import Completion
from api.schema.stored import StoredDeleted, StoredList
from workers import contract

MAX_PAGE, PAGE = 100, 20


class ChatCompletions(Endpoint[ChatRequest]):
    """The chat endpoint, and the list of what it stored."""

    def __init__(self, generation: Generation, store: ChatStore) -> None:
        super().__init__(generation, ChatRequest, chat_job)
        self._store = store

    async def prepared(self, req: Request, request: ChatRequest, job: contract.Job) -> contract.Job:
        """The job, noted as one that is stored if it is."""
        if not request.store:
            return job
        await self._store.note(job.id, req.context.tenant.name)
        return self._store.stored(job)

    async def on_get(self, req: Request, resp: Response) -> None:
        """A page of stored completions, the oldest first unless `order` is `desc`."""
        limit = limit_of(req, PAGE, MAX_PAGE)
        wanted = Wanted(req.get_param("model"), _metadata(req))
        tenant, after = req.context.tenant.name, req.get_param("after")
        newest_first = bool(req.get_param("order")) and is_newest_first(req)
        listed = self._store.listed(tenant, wanted, after=after, newest_first=newest_first)
        page: list[Completion] = []
        async with contextlib.aclosing(listed) as completions:
            async for completion in completions:
                page.append(completion)
                if len(page) > limit:
                    break
        ids = [completion.id for completion in page[:limit]]
        first, last = (ids[0], ids[-1]) if ids else (None, None)
        send_json(resp, StoredList(page[:limit], first, last, len(page) > limit))


class StoredCompletion:
    """One completion that was stored."""

    def __init__(self, store: ChatStore) -> None:
        self._store = store

    async def on_get(self, req: Request, resp: Response, completion_id: str) -> None:
        """The completion, once it is complete."""
        send_json(resp, await self._store.find(completion_id, req.context.tenant.name))

    async def on_delete(self, req: Request, resp: Response, completion_id: str) -> None:
        """Let nobody read it any more."""
        await self._store.forget(completion_id, req.context.tenant.name)
        send_json(resp, StoredDeleted(completion_id))


def _metadata(req: Request) -> dict[str, str]:
    """`metadata[key]=value` of the query."""
    asked = {name: req.get_param(name) or "" for name in req.params if name.startswith("metadata[")}
    return {name[len("metadata[") : -1]: value for name, value in asked.items()}


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
