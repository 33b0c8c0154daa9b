"""The jobs this worker holds: claims, their leases in Redis, and how they end. Knows no token.

`lease_thread.py` renews them in time; here is what a renewal asks and what its answers mean.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import msgspec

from workers.contract import ServiceClass
from workers.keys import (
    arq_job_key,
    arq_retry_key,
    job_key,
    lease_key,
    log_key,
    wake_channel,
)
from workers.redis_link import Scripts

logger = logging.getLogger(__name__)

# done: the log has its terminal entry. dead: the same, and an operator may start it again.
# hand_back: someone else goes on, no fault of the job.
# crashed: someone else goes on, and the job may be why the engine died.
Ending = Literal["done", "dead", "hand_back", "crashed"]
LOST, RENEWED, CANCELLED = range(3)


class Claimed(NamedTuple):
    """A job that the claim script gave us."""

    id: str
    queued_ms: int
    attempt: int
    crashes: int
    service_class: ServiceClass


def read_claims(reply: Sequence[bytes]) -> list[Claimed]:
    """The claim script's reply."""
    rows = zip(*(iter(reply),) * len(Claimed._fields), strict=True)
    return [
        Claimed(
            id_.decode(),
            int(float(queued_ms)),
            int(attempt),
            int(crashes),
            msgspec.convert(service_class.decode(), ServiceClass),
        )
        for id_, queued_ms, attempt, crashes, service_class in rows
    ]


class Claim:
    """One attempt at one job. Whoever runs it sets the callbacks."""

    def __init__(
        self,
        job_id: str,
        worker: str,
        attempt: int,
        crashes: int = 0,
        service_class: ServiceClass = "default",
    ) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self.crashes = crashes  # engines that died under it
        self.service_class = service_class
        self.result_ttl_s = 0  # how long record and log outlive the end; 0: as configured
        self.outcome = "done"  # or the code it failed with
        self.taken_s = time.time()
        self.enqueued_s = self.taken_s  # by the API's clock, once the queue's record was read
        self.trace: dict[str, str] = {}  # the job's, once its record was read
        self.used_tokens = -1  # what it cost, once that is known
        self.owner = f"{worker}:{attempt}"
        self.ending: Ending = "hand_back"
        self.is_over = False  # the log has its terminal entry, in Redis
        self.is_lost = False
        self.is_cancelled = False
        self.gave_way = False
        self.on_lost: Callable[[], None] | None = None
        self.on_cancel: Callable[[], None] | None = None
        self.on_give_way: Callable[[], None] | None = None

    def lose(self) -> None:
        """Another attempt holds the job, or Redis says so: stop without a word."""
        if not self.is_lost:
            self.is_lost = True
            if self.on_lost is not None:
                self.on_lost()

    def cancel(self) -> None:
        """The client gave the job up."""
        if not self.is_cancelled:
            self.is_cancelled = True
            if self.on_cancel is not None:
                self.on_cancel()

    def give_way(self) -> None:
        """A more urgent job needs the place: hand this one back at its offset."""
        if not self.gave_way:
            self.gave_way = True
            if self.on_give_way is not None:
                self.on_give_way()


class Renewal(NamedTuple):
    """One call of the renew script: what was asked, for which claims, and when."""

    claims: list[Claim]
    keys: list[str]
    args: list[str | int]
    asked_at_s: float


class Leases:
    """Claims by job id, renewed together."""

    def __init__(
        self,
        scripts: Scripts,
        *,
        worker: str,
        queue: str,
        lease_s: float,
        job_ttl_s: int,
        result_ttl_s: int,
    ) -> None:
        self.claims: dict[str, Claim] = {}
        self._scripts = scripts
        self._worker = worker
        self._queue = queue
        self._lease_s = lease_s
        self._job_ttl_s = job_ttl_s
        self._result_ttl_s = result_ttl_s
        self._renewed_at_s = time.monotonic()

    @property
    def lease_ms(self) -> int:
        """The lease as Redis wants it."""
        return int(self._lease_s * 1000)

    @property
    def is_stale(self) -> bool:
        """True when leases may have run out unseen: renew before claiming, or we claim our own."""
        return bool(self.claims) and time.monotonic() - self._renewed_at_s > self._lease_s / 2

    def take(
        self,
        job_id: str,
        attempt: int,
        crashes: int = 0,
        service_class: ServiceClass = "default",
    ) -> Claim:
        """Note a job that the claim script gave us."""
        claim = Claim(job_id, self._worker, attempt, crashes, service_class)
        self.claims[job_id] = claim
        return claim

    def cancel(self, job_id: str) -> None:
        """Cancel the job if we have it."""
        if (claim := self.claims.get(job_id)) is not None:
            claim.cancel()

    async def renew(self) -> None:
        """Renew all leases once; stop lost jobs, cancel cancelled ones. Raises TRANSIENT."""
        renewal = self.renewal()
        states = []
        if renewal.claims:
            states = await self._scripts.run("renew", renewal.keys, renewal.args)
        self.note(renewal, states)

    def renewal(self) -> Renewal:
        """What to ask Redis now. Any thread may call it."""
        asked_at_s = time.monotonic()
        claims = [claim for claim in list(self.claims.values()) if not claim.is_lost]
        args: list[str | int] = [self.lease_ms, self._job_ttl_s * 1000]
        for claim in claims:
            args += (claim.job_id, claim.owner, claim.attempt)
        return Renewal(claims, [self._queue], args, asked_at_s)

    def note(self, renewal: Renewal, states: Sequence[int]) -> None:
        """Redis answered with one state per claim; in the event loop."""
        for claim, state in zip(renewal.claims, states, strict=True):
            self._take_note(claim, state)
        self._renewed_at_s = max(self._renewed_at_s, renewal.asked_at_s)

    def _take_note(self, claim: Claim, state: int) -> None:
        if self.claims.get(claim.job_id) is not claim:  # it ended while we asked
            return
        if state == LOST:
            logger.warning("job %s: lease lost", claim.job_id)
            claim.lose()
        elif state == CANCELLED:
            claim.cancel()

    async def release(self, claim: Claim, ending: Ending) -> None:
        """Give the job up for good or for others. Without effect if the lease is not ours."""
        if self.claims.get(claim.job_id) is claim:
            del self.claims[claim.job_id]
        await self._scripts.insist(
            "release",
            keys=[
                lease_key(claim.job_id),
                self._queue,
                arq_job_key(claim.job_id),
                arq_retry_key(claim.job_id),
                job_key(claim.job_id),
                log_key(claim.job_id),
            ],
            args=[
                claim.owner,
                claim.job_id,
                ending,
                wake_channel(self._queue),
                (claim.result_ttl_s or self._result_ttl_s) * 1000,
                claim.used_tokens,
                claim.outcome,
            ],
        )
