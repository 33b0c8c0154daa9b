"""Stored responses: find one, read it, stop it, forget it. Knows jobs and logs, no HTTP."""

import asyncio
from collections.abc import Iterable

from api.broker import Broker, JobView
from api.delivery import Reader
from api.errors import ApiError
from api.response.conversation import Item, echo_of, is_code, is_response, items_of, response_id_of
from api.response.view import ResponseView
from workers import contract, keys

STOP_S = 3.0  # how long a cancelled response is waited for
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

    async def turns_before(self, response_id: str | None, tenant: str) -> list[Item]:
        """What a response that goes on from another has before its own input: the other's input
        and output, without its instructions. Raises ApiError.
        """
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
        return [*items_of(found.job), view.turn()]

    async def items(self, item_ids: Iterable[str], tenant: str) -> dict[str, Item]:
        """Those of the items that there are. Raises ApiError."""
        wanted = {response_id_of(item_id) for item_id in item_ids} - {None}
        known: dict[str, Item] = {}
        for response_id in wanted:
            found = await self._find(response_id or "", tenant)
            if found is not None:
                turns = [*items_of(found.job), (await self.read(found.job)).turn()]
                known |= {item.id: item for item in turns}
        return known

    async def stop(self, job: contract.Job) -> None:
        """Cancel a response and wait a while for its end; one that has ended stays as it is.

        Raises ApiError, also when it was cancelled and cannot be waited for.
        """
        await self._broker.cancel(job, keys.queue_key(job.model))
        reader = Reader(job.id)
        self._broker.open(reader, job.home)
        try:
            self._broker.relay.ask(reader)
            async with asyncio.timeout(STOP_S):
                await self._end_of(reader)
        except TimeoutError:
            return  # its worker may be dead; whoever reaps it finds the cancel
        finally:
            self._broker.release(reader, job.home)

    async def forget(self, view: JobView) -> None:
        """Stop a response if it runs, then let nobody read it any more. Raises ApiError."""
        if view.last_number is None:
            await self.stop(view.job)
        await self._broker.forget(view.job.id)

    async def _find(self, response_id: str, tenant: str) -> JobView | None:
        prefix, _, code = response_id.partition("_")
        if prefix != "resp" or not is_code(code):
            return None
        view = await self._broker.view(response_id)
        if view is None or not is_response(view.job) or view.job.tenant != tenant:
            return None
        return view if echo_of(view.job).is_stored else None

    async def _end_of(self, reader: Reader) -> None:
        while not reader.is_over and reader.is_open:
            await reader.wait()
            reader.take()
            if reader.is_behind:
                self._broker.relay.ask(reader)
