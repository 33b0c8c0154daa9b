"""/admin/dead: an operator looks at dead letters, starts them again or forgets them.

Knows HTTP, not how a dead letter is kept.
"""

import msgspec
from falcon.asgi import Request, Response

from api.auth import Tenant
from api.dead_letters import DeadLetter, DeadLetters
from api.errors import ApiError
from api.generation import send_json
from api.job_store import JobStore

MAX_LETTERS, LETTERS = 1000, 100


class _Letters(msgspec.Struct, frozen=True):
    data: list[DeadLetter]
    object: str = "list"


class _Dropped(msgspec.Struct, frozen=True):
    id: str
    object: str = "dead_letter"
    deleted: bool = True


class Dead:
    """For tenants with the right to it only."""

    def __init__(self, letters: DeadLetters, jobs: JobStore) -> None:
        self._letters = letters
        self._jobs = jobs

    async def on_get(self, req: Request, resp: Response) -> None:
        """The newest dead letters."""
        _check_admin(req)
        send_json(resp, _Letters(await self._letters.newest(_limit(req))))

    async def on_delete_one(self, req: Request, resp: Response, job_id: str) -> None:
        """Take one off the list; its client can still read how it failed."""
        _check_admin(req)
        if not await self._letters.drop(job_id):
            raise _missing(job_id)
        send_json(resp, _Dropped(job_id))

    async def on_post_retry(self, req: Request, resp: Response, job_id: str) -> None:
        """Start one again, whosever it is; answers with the job."""
        _check_admin(req)
        if not await self._letters.retry(job_id):
            raise _missing(job_id)
        resp.set_header("x-job-id", job_id)
        send_json(resp, await self._jobs.show(await self._jobs.find_any(job_id)))


def _check_admin(req: Request) -> None:
    tenant: Tenant = req.context.tenant
    if not tenant.is_admin:
        raise ApiError("permission_denied", "This route needs an admin's API key.")


def _limit(req: Request) -> int:
    text = req.get_param("limit") or str(LETTERS)
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MAX_LETTERS):
        raise ApiError("invalid_value", f"'limit' must be between 1 and {MAX_LETTERS}.", "limit")
    return int(text)


def _missing(job_id: str) -> ApiError:
    return ApiError("job_not_found", f"There is no dead letter '{job_id[:80]}'.")
