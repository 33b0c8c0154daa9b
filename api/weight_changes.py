"""Changes of weights in Redis: ask for one, see how it stands. Knows no HTTP and no tensor.

The workers make a change by themselves, one after another, whether anybody waits for it or not;
`workers/lua/isq.lua` has its life. Whoever looks also settles what the workers have said.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from api.broker import Broker
from api.errors import ApiError
from api.schema.re_isq import ReIsq, WorkerWeights
from workers import contract

_WORKER = "worker:"


class Looked(NamedTuple):
    """A change as it stands, and if anybody serves its model now."""

    change: ReIsq
    is_served: bool


class WeightChanges:
    """The changes of all models. An ended one is remembered for `result_ttl_s`."""

    def __init__(self, broker: Broker, result_ttl_s: int) -> None:
        self._broker = broker
        self._ttl_s = result_ttl_s
        self._begin_script, self._look_script = (
            broker.redis.register_script(contract.load_script(name))
            for name in ("isq_begin", "isq_look")
        )

    async def begin(self, model: str, isq_type: str) -> str:
        """Ask a model's workers for weights of a type; the change's id.

        It is an earlier one's where that asks for the same and is not over. Raises ApiError.
        """
        change_id = f"reisq-{uuid.uuid4().hex}"
        keys = [contract.isq_key(model), contract.re_isq_key(change_id)]
        args: list[str | int] = [change_id, model, isq_type, self._ttl_s, contract.ISQ_TTL_S * 1000]
        reply: list[bytes] = await self._broker.call(lambda: self._begin_script(keys, args))
        verdict, *rest = (item.decode() for item in reply)
        if verdict in ("begun", "joined"):
            return rest[0]
        raise _refusal(verdict, rest, model)

    async def look(self, change_id: str) -> Looked:
        """How a change stands. Raises ApiError `not_found`, `queue_unavailable`."""
        key = contract.re_isq_key(change_id)
        model = await self._broker.call(lambda: self._model_of(key))
        if model is None:
            raise _unknown(change_id)
        keys, args = [contract.isq_key(model), key], (model, self._ttl_s)
        reply = await self._broker.call(lambda: self._look_script(keys, args))
        if not reply:
            raise _unknown(change_id)
        is_served, *fields = reply
        return Looked(_change(change_id, _texts(fields)), bool(is_served))

    async def _model_of(self, key: str) -> str | None:
        found: bytes | None = await self._broker.redis.hget(key, "model")  # type: ignore[misc]
        return None if found is None else found.decode()


def _texts(fields: Sequence[bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in zip(fields[::2], fields[1::2], strict=True)}


def _change(change_id: str, fields: Mapping[str, bytes]) -> ReIsq:
    state: Any = fields["state"].decode()
    what = fields.get("error", b"").decode()
    error = ApiError("re_isq_failed", what) if state == "failed" else None
    ended_ms = fields.get("ended_ms")
    return ReIsq(
        id=change_id,
        state=state,
        model=fields["model"].decode(),
        isq_type=fields["type"].decode(),
        created_at=int(fields["created_ms"]) // 1000,
        ended_at=None if ended_ms is None else int(ended_ms) // 1000,
        workers=[
            _worker(name.removeprefix(_WORKER), value)
            for name, value in sorted(fields.items())
            if name.startswith(_WORKER)
        ],
        error=None if error is None else error.response().error,
    )


def _worker(worker: str, data: bytes) -> WorkerWeights:
    swap = contract.decode_swap(data)
    return WorkerWeights(
        id=worker,
        before=swap.before or None,
        after=swap.after or None,
        took_ms=swap.took_ms,
        error=swap.error or None,
    )


def _refusal(verdict: str, rest: Sequence[str], model: str) -> ApiError:
    if verdict == "busy":
        under_way, isq_type = rest
        return ApiError(
            "conflict",
            f"The weights of '{model}' are being changed to {isq_type} ({under_way}); "
            "ask again when that has ended.",
        )
    if verdict == "unable":
        return ApiError(
            "re_isq_failed",
            f"Worker {rest[0]} of '{model}' is of a version that cannot change its weights; "
            "replace it.",
        )
    return ApiError("no_workers", f"No worker serves '{model}' now; try again soon.")


def _unknown(change_id: str) -> ApiError:
    return ApiError("not_found", f"There is no re_isq '{change_id[:80]}', or it has expired.")
