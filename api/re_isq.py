"""POST /v1/re_isq, and GET /v1/re_isq/{id}: other weights for a model while it serves.

Knows HTTP; the workers do it, and one that began goes on without its client.
"""

import asyncio
import contextlib
import math

import falcon
import msgspec
from falcon.asgi import Request, Response

from api.directory import DEFAULT_MODEL, Directory
from api.errors import ApiError, ClientGone
from api.generation import Generation, body_of, send_json
from api.schema.decode import decode_body
from api.schema.re_isq import ReIsq, ReIsqRequest
from api.weight_changes import WeightChanges
from api.wishes import Wishes
from workers import contract

LOOK_S = 0.2
# The model's last worker, or Redis, is gone for so long: nobody waits for it any more.
GONE_S = 10.0
_decoder = msgspec.json.Decoder(ReIsqRequest)


class ReIsqs:
    """For admins: the gate lets nobody else in."""

    def __init__(self, generation: Generation, changes: WeightChanges) -> None:
        self._generation = generation
        self._broker = generation.broker
        self._changes = changes

    async def on_post(self, req: Request, resp: Response) -> None:
        """Begin a change and answer when every worker has it, or at once with where to look."""
        asked = decode_body(_decoder, await self._generation.read(req))
        directory = await self._broker.directory()
        card = _card(directory, asked.model)
        change_id = await self._changes.begin(card.name, _type(asked.asked, card))
        wishes: Wishes = req.context.wishes
        change = await self._end(req, change_id, wishes.wait_s if wishes.is_async else None)
        if change.error is not None:
            raise ApiError(change.error.code or "re_isq_failed", change.error.message)
        if change.state == "in_progress":
            resp.status = falcon.HTTP_202
            resp.set_header("location", f"/v1/re_isq/{change_id}")
            resp.set_header("preference-applied", "respond-async")
        send_json(resp, change)

    async def on_get_one(self, req: Request, resp: Response, change_id: str) -> None:
        """A change as it stands."""
        resp.set_header("cache-control", "no-cache")
        send_json(resp, (await self._changes.look(change_id)).change)

    async def _end(self, req: Request, change_id: str, wait_s: float | None) -> ReIsq:
        """The change at its end, or after `wait_s`. Raises ApiError, and ClientGone."""
        gone = asyncio.Event()
        body_of(req).watch(gone.set)
        loop = asyncio.get_running_loop()
        seen_s = loop.time()
        until_s = math.inf if wait_s is None else seen_s + wait_s
        while True:
            change, missing = await self._look(change_id)
            now_s = loop.time()
            if change is not None and (change.state != "in_progress" or now_s >= until_s):
                return change
            if missing is None:
                seen_s = now_s
            elif now_s - seen_s > GONE_S:
                raise missing
            if self._broker.is_draining:
                raise ApiError("draining", _ELSEWHERE.format(change_id))
            await _pause(gone)

    async def _look(self, change_id: str) -> tuple[ReIsq | None, ApiError | None]:
        """The change, and what it goes on without: a worker, or Redis, which may be back soon."""
        try:
            change, is_served = await self._changes.look(change_id)
        except ApiError as error:
            if error.code != "queue_unavailable":
                raise
            return None, error
        return change, None if is_served else _nobody(change)


_ELSEWHERE = "This server is shutting down; the change goes on: GET /v1/re_isq/{}."


async def _pause(gone: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LOOK_S):
            await gone.wait()
        raise ClientGone


def _card(directory: Directory, model: str | None) -> contract.ModelCard:
    """The model that is meant. Weights are changed of what is named, not of what is there."""
    if model is not None and model != DEFAULT_MODEL:
        return directory.resolve(model, strict=True)
    if len(directory.cards) > 1:
        known = ", ".join(sorted(card.name for card in directory.cards))
        raise ApiError(
            "missing_required_parameter",
            f"Several models are served, so 'model' has to be one of them: {known}.",
            "model",
        )
    return directory.resolve(DEFAULT_MODEL, strict=False)


def _type(asked: str, card: contract.ModelCard) -> str:
    """The type in the workers' spelling. Raises ApiError."""
    name = asked.strip().upper().replace("_K", "K")
    if name in card.isq_types:
        return name
    if not card.isq_types:
        raise ApiError(
            "unsupported_parameter", f"The workers of '{card.name}' cannot change their weights."
        )
    known = ", ".join(f"`{one}`" for one in card.isq_types)
    what = f"ISQ type {asked[:80]} unknown, choose one of {known}."
    raise ApiError("invalid_value", what, "isq_type")


def _nobody(change: ReIsq) -> ApiError:
    return ApiError(
        "no_workers",
        f"The last worker of '{change.model}' is gone in the middle of {change.id}; "
        f"those that start now begin with {change.isq_type}.",
    )
