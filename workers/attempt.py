"""Begins and ends an attempt in Redis: fence and read the log, close it. Knows no engine."""

from typing import NamedTuple

import msgspec

from workers.contract import (
    Event,
    Failed,
    Fence,
    cancel_key,
    decode_event,
    encode,
    is_terminal,
    job_key,
    lease_key,
    log_key,
    num_events,
)
from workers.lease import Claim
from workers.redis_link import Scripts
from workers.token_log import JobLog, TokenLog


class Opened(NamedTuple):
    """A job as an attempt finds it.

    `spec` is empty when the record is gone; `left_ms` is the time to its deadline, if it has one;
    `maker` the fingerprint of the engine that made the tokens in the log; `damage` says why the log
    cannot be read past `events`.
    """

    spec: bytes
    is_cancelled: bool
    left_ms: int | None
    maker: str
    events: list[Event]
    log: JobLog
    damage: str


class _Home(msgspec.Struct):
    home: str = ""


async def open_attempt(
    scripts: Scripts, claim: Claim, worker: str, job_ttl_s: int, fingerprint: str
) -> Opened | None:
    """Fence off earlier attempts and read the job; None if the lease is not ours any more."""
    reply = await scripts.insist(
        "open",
        keys=[
            lease_key(claim.job_id),
            job_key(claim.job_id),
            log_key(claim.job_id),
            cancel_key(claim.job_id),
        ],
        args=[
            claim.owner,
            encode(Fence(claim.attempt, worker)),
            claim.attempt,
            job_ttl_s,
            fingerprint,
        ],
    )
    if not reply[0]:
        return None
    spec, is_cancelled, left_ms, maker = reply[1:5]
    entries = reply[5:]
    events, damage = _decode(entries)
    log = JobLog(claim.job_id, _home(spec), entries, sum(num_events(event) for event in events))
    log.is_over = bool(events) and is_terminal(events[-1])
    return Opened(
        spec,
        bool(is_cancelled),
        int(left_ms) if left_ms else None,
        maker.decode(),
        events,
        log,
        damage,
    )


def _decode(entries: list[bytes]) -> tuple[list[Event], str]:
    events: list[Event] = []
    try:
        for entry in entries:
            events.append(decode_event(entry))
    except msgspec.MsgspecError as error:
        return events, f"entry {len(events)} of the log cannot be read: {error}"
    return events, ""


def _home(spec: bytes) -> str:
    """Who waits for the job, even if the rest of the record is of another version."""
    try:
        return msgspec.msgpack.decode(spec, type=_Home).home
    except msgspec.MsgspecError:
        return ""


async def close_attempt(
    token_log: TokenLog, log: JobLog, code: str, message: str, param: str | None = None
) -> None:
    """End a job that has no run with a Failed entry, unless it has ended; return when durable."""
    if not log.is_over:
        token_log.append(log, Failed(log.offset, code, message, param))
        token_log.flush()
    await log.settled()
