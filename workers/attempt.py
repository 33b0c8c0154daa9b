"""Begins and ends an attempt in Redis: fence and read the log, close it. Knows no engine."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from workers.contract import (
    Event,
    Failed,
    Fence,
    Started,
    cancel_key,
    completion_tokens,
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


class Failure(NamedTuple):
    """Why a job ends without an answer: the fields of Failed."""

    code: str
    message: str
    param: str | None = None


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


class _Basics(msgspec.Struct):
    home: str = ""
    result_ttl_s: int = 0
    trace: dict[str, str] = {}


async def open_attempt(
    scripts: Scripts, claim: Claim, worker: str, job_ttl_s: int, fingerprint: str
) -> Opened | None:
    """Fence off earlier attempts and read the job; None if the lease is not ours any more."""
    fence = encode(Fence(claim.attempt, worker))
    reply = await scripts.insist(
        "open",
        keys=[key(claim.job_id) for key in (lease_key, job_key, log_key, cancel_key)],
        args=[claim.owner, fence, claim.attempt, job_ttl_s, fingerprint],
    )
    return _opened(claim, reply) if reply[0] else None


def _opened(claim: Claim, reply: list[Any]) -> Opened:
    spec, is_cancelled, left_ms, maker = reply[1:5]
    entries = reply[5:]
    events, damage = _decode(entries)
    basics = _basics(spec)
    claim.trace = basics.trace
    log = JobLog(claim.job_id, basics.home, entries, sum(num_events(event) for event in events))
    log.is_over = bool(events) and is_terminal(events[-1])
    log.result_ttl_s = basics.result_ttl_s
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


def _basics(spec: bytes) -> _Basics:
    """Who waits for the job and how long, even if the rest of the record is of another version."""
    try:
        return msgspec.msgpack.decode(spec, type=_Basics)
    except msgspec.MsgspecError:
        return _Basics()


async def close_attempt(
    token_log: TokenLog, claim: Claim, opened: Opened, failure: Failure, dead_ttl_s: int = 0
) -> None:
    """End a job that has no run with a Failed entry, unless it has ended; return when durable.

    `dead_ttl_s`: it becomes a dead letter, which is kept for so long.
    """
    log, end = opened.log, opened.events[-1] if opened.log.is_over else None
    if dead_ttl_s and end is None:
        claim.ending, log.result_ttl_s = "dead", dead_ttl_s
    if end is None:
        token_log.append(log, Failed(log.offset, *failure))
        token_log.flush()
    outcome = failure.code if end is None else outcome_of(end)
    settle(claim, log, outcome, num_used(opened.events))
    claim.is_over = await log.settled()


def settle(claim: Claim, log: JobLog, outcome: str, used_tokens: int) -> None:
    """Note how the job ended and what it cost, for its release."""
    claim.outcome, claim.used_tokens = outcome, max(claim.used_tokens, used_tokens)
    claim.result_ttl_s = log.result_ttl_s


def outcome_of(end: Event) -> str:
    """The name of a terminal entry: `done`, or the code of a failure."""
    return end.code if isinstance(end, Failed) else "done"


def num_used(events: Sequence[Event]) -> int:
    """Tokens that a job has cost by its log: prompt and answer, none if it never started."""
    prompt = sum(event.prompt_tokens for event in events if isinstance(event, Started))
    return prompt + completion_tokens(events)
