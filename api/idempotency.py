"""Idempotency-Keys: what the same request began before. Knows no kind of request.

Every call may raise ApiError `queue_unavailable`.
"""

from typing import NamedTuple

from falcon.asgi import Response
from redis.asyncio import Redis

from api.admission import conflict
from api.call import Call
from workers import contract


class Once(NamedTuple):
    """What a request is remembered by: the name of its key's record, the digest of its body, and
    for how long. Without a digest it has no key.
    """

    record: str = contract.idempotency_key("", "")
    digest: str = ""
    ttl_ms: int = 0


NO_KEY = Once()


class KnownKeys:
    """The keys of all tenants, each remembered for `ttl_s` from its first request on."""

    def __init__(self, redis: Redis, call: Call, ttl_s: int) -> None:
        self._call = call
        self._ttl_ms = ttl_s * 1000
        self._script = redis.register_script(contract.load_script("known"))

    def once(self, tenant: str, key: str, digest: str) -> Once:
        """What the request with this key is remembered by."""
        if not key:
            return NO_KEY
        return Once(contract.idempotency_key(tenant, key), digest, self._ttl_ms)

    async def find(self, once: Once) -> str | None:
        """The id of what a request began, if that is there.

        Raises ApiError `idempotency_conflict` if it had another body.
        """
        if not once.digest:
            return None
        found = await self._look(once.record, once.digest)
        if found and not found[1]:
            raise conflict()
        return found[0].decode() if found else None

    async def is_taken(self, tenant: str, key: str) -> bool:
        """True if a request came with this key, whatever its body."""
        return bool(key and await self._look(contract.idempotency_key(tenant, key), ""))

    async def _look(self, record: str, digest: str) -> tuple[bytes, int] | None:
        found = await self._call(lambda: self._script(keys=[record], args=[digest]))
        return tuple(found) if found else None


def tell_earlier(resp: Response) -> None:
    """Say that the answer is about what an earlier request began."""
    resp.set_header("idempotent-replayed", "true")
