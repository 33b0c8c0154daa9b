"""Stored responses: find one, read it, go on from it. Knows jobs and logs, no HTTP."""

from collections.abc import Iterable

from api.broker import Broker, JobView
from api.errors import ApiError
from api.response.conversation import echo_of, is_response, items_of
from api.response.item import Item, is_code, response_id_of
from api.response.job import check_calls, check_size, input_items
from api.response.view import ResponseView
from api.schema.response_input import Reference
from api.schema.responses import ResponsesRequest
from workers import contract

MAX_REFERRED = 64  # responses of which a request may name items; each has to be read
_CONTINUABLE = ("completed", "incomplete")


class ResponseStore:
    """The responses of all tenants; each sees its own."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def find(self, response_id: str, tenant: str) -> JobView:
        """A stored response's job. Raises ApiError `response_not_found`, whatever the reason."""
        view = await self._find(response_id, tenant)
        if view is None:
            what = f"Response with id '{response_id[:80]}' not found."
            raise ApiError("response_not_found", what)
        return view

    async def read(self, job: contract.Job) -> ResponseView:
        """The response at this moment. Raises ApiError."""
        view = ResponseView(job)
        view.add(await self._broker.read_log(job.id))
        return view

    async def conversation(
        self, request: ResponsesRequest, response_id: str, tenant: str, *, max_bytes: int
    ) -> list[Item]:
        """What a new response answers: the turns before it, then its own input. Raises ApiError."""
        inputs = request.inputs()
        wanted = [part.item_id for part in inputs if isinstance(part, Reference)]
        items = await self._turns_before(request.previous_response_id, tenant)
        known = {item.id: item for item in items} | await self._items(wanted, tenant)
        items += input_items(response_id, inputs, known)
        check_size(items, max_bytes)
        check_calls(items)
        return items

    async def _turns_before(self, response_id: str | None, tenant: str) -> list[Item]:
        """The input and output of the response that another goes on from, not its instructions."""
        if response_id is None:
            return []
        param = "previous_response_id"
        found = await self._find(response_id, tenant)
        if found is None:
            what = f"Previous response with id '{response_id[:80]}' not found."
            raise ApiError("previous_response_not_found", what, param)
        view = await self.read(found.job)
        if view.status not in _CONTINUABLE:
            what = f"Previous response '{response_id}' is {view.status}; it cannot be continued."
            raise ApiError("invalid_value", what, param)
        return [*items_of(found.job), *view.turn()]

    async def _items(self, item_ids: Iterable[str], tenant: str) -> dict[str, Item]:
        """Those of the items that there are."""
        wanted = {response_id_of(item_id) for item_id in item_ids} - {None}
        if len(wanted) > MAX_REFERRED:
            what = f"'input' refers to items of more than {MAX_REFERRED} responses."
            raise ApiError("invalid_value", what, "input")
        known: dict[str, Item] = {}
        for response_id in wanted:
            found = await self._find(response_id or "", tenant)
            if found is not None:
                turns = [*items_of(found.job), *(await self.read(found.job)).turn()]
                known |= {item.id: item for item in turns}
        return known

    async def _find(self, response_id: str, tenant: str) -> JobView | None:
        prefix, _, code = response_id.partition("_")
        if prefix != "resp" or not is_code(code):
            return None
        view = await self._broker.view(response_id)
        if view is None or not is_response(view.job) or view.job.tenant != tenant:
            return None
        return view if echo_of(view.job).is_stored else None
