"""/admin/dead: an operator looks at dead letters, starts them again or forgets them.

Knows HTTP, not how a dead letter is kept.
"""

import msgspec
from falcon.asgi import Request, Response

from api.dead_letters import DeadLetter, DeadLetters
from api.errors import ApiError
from api.generation import send_json
from api.job_store import JobStore
from api.params import limit_of

MAX_LETTERS, LETTERS = 1000, 100


class Letters(msgspec.Struct, frozen=True):
    """GET /admin/dead."""

    data: list[DeadLetter]
    object: str = "list"


class Dropped(msgspec.Struct, frozen=True):
    """DELETE /admin/dead/{id}."""

    id: str
    object: str = "dead_letter"
    deleted: bool = True


class Dead:
    """The gate lets tenants with the right to it in, and nobody else."""

    def __init__(self, letters: DeadLetters, jobs: JobStore) -> None:
        self._letters = letters
        self._jobs = jobs

    async def on_get(self, req: Request, resp: Response) -> None:
        """The newest dead letters."""
        send_json(resp, Letters(await self._letters.newest(limit_of(req, LETTERS, MAX_LETTERS))))

    async def on_delete_one(self, req: Request, resp: Response, job_id: str) -> None:
        """Take one off the list; its client can still read how it failed."""
        if not await self._letters.drop(job_id):
            raise _missing(job_id)
        send_json(resp, Dropped(job_id))

    async def on_post_retry(self, req: Request, resp: Response, job_id: str) -> None:
        """Start one again, whosever it is; answers with the job."""
        if not await self._letters.retry(job_id):
            raise _missing(job_id)
        resp.set_header("x-job-id", job_id)
        send_json(resp, await self._jobs.show(await self._jobs.find_any(job_id)))


def _missing(job_id: str) -> ApiError:
    return ApiError("job_not_found", f"There is no dead letter '{job_id[:80]}'.")
