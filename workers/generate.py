"""The arq function `generate`: one attempt at one job, to a durable end. Knows no queue."""

import asyncio
import contextlib
import logging
import time
from typing import Any

from arq import Retry

from engine.errors import EngineError
from workers.attempt import (
    Failure,
    Opened,
    close_attempt,
    num_used,
    open_attempt,
    outcome_of,
    settle,
)
from workers.constraint import param_of
from workers.contract import Job, Tokens, Vectors, WireError, decode_job
from workers.inputs import check_task, inputs_of
from workers.job_run import JobRun
from workers.lease import Claim
from workers.logs import without_message
from workers.meter import Meter
from workers.prepare import prepare
from workers.run import INTERNAL_ERROR, AnyRun, Attempt, End, Standing
from workers.service import Service
from workers.vector_run import VectorRun

logger = logging.getLogger(__name__)

MAX_INLINE_BYTES = 32_768  # a larger job is prepared in a thread, so that others' tokens flow on
MAX_INLINE_INPUTS = 16
HAND_BACK_S = 2.0  # how long a job that is given up waits for Redis to take its last tokens

STEPS_AHEAD = 2  # of a job of vectors that are in the engine

DEADLY = ("engine_crashed", "too_many_attempts")  # how jobs end that become dead letters

CANCELLED = Failure("cancelled", "The request was cancelled.")
TOO_LATE = Failure("deadline_exceeded", "The request was not done before its deadline.")
OTHER_MODEL = Failure(
    "model_changed",
    "The model's weights were replaced while the answer was written; please ask again.",
)


async def generate(ctx: dict[str, Any], job_id: str) -> None:
    """Run the job until its log is closed and durable, or give it up to another attempt.

    Raises Retry when another attempt goes on; arq's cancellation hands the job back.
    """
    service: Service = ctx["service"]
    claim = service.leases.claims[job_id]
    claim.enqueued_s = ctx["enqueue_time"].timestamp()
    opened = await begin(service, claim)
    if opened is None:
        claim.lose()
        return
    opened.log.on_fenced = claim.lose
    if service.spans is not None:
        service.spans.taken(claim)
    try:
        end = await _attempt(service, claim, opened)
    except asyncio.CancelledError:
        await _settled_soon(opened)
        raise
    await _conclude(service, claim, opened, end)


async def begin(service: Service, claim: Claim) -> Opened | None:
    """Fence off earlier attempts and read the job; None if the lease is not ours any more."""
    return await open_attempt(
        service.scripts,
        claim,
        service.worker,
        service.config.job_ttl_s,
        service.info.fingerprint,
    )


async def _conclude(service: Service, claim: Claim, opened: Opened, end: End) -> None:
    if end == "over":
        claim.is_over = await opened.log.settled()
    elif end == "engine_died" and claim.ending == "dead":
        logger.error("job %s: dead letter", claim.job_id)
        ttl_s = service.config.dead_ttl_s
        await close_attempt(service.token_log, claim, opened, _engine_crashed(claim), ttl_s)
    if claim.is_over:
        return
    if end in ("left", "engine_died"):
        await _settled_soon(opened)
    service.token_log.forget(opened.log)
    if end in ("left", "engine_died"):
        raise Retry


async def _settled_soon(opened: Opened) -> None:
    """Let what was made reach Redis, so that nobody makes it again."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HAND_BACK_S):
            await opened.log.settled()


def _engine_crashed(claim: Claim) -> Failure:
    return Failure(
        "engine_crashed",
        f"Request {claim.job_id} crashed the engine {claim.crashes + 1} times and was set aside; "
        "an operator can retry it.",
    )


async def _attempt(service: Service, claim: Claim, opened: Opened) -> End:
    if opened.log.is_over:
        _settle_ended(service, claim, opened)
        return "over"
    ends_at_s = None if opened.left_ms is None else time.monotonic() + opened.left_ms / 1000
    failure = _refusal(service, opened)
    if failure is not None:
        return await _refuse(service, claim, opened, failure)
    try:
        run = await _prepare(service, claim, opened)
    except WireError as error:
        logger.error("job %s: %s", claim.job_id, error)
        return await _refuse(service, claim, opened, Failure("unreadable_job", str(error)))
    except EngineError as error:
        failure = Failure(error.code, str(error), error.param)
        return await _refuse(service, claim, opened, failure)
    except Exception as error:
        logger.error("job %s: %s", claim.job_id, without_message(error))
        return await _refuse(service, claim, opened, Failure("internal_error", INTERNAL_ERROR))
    return await _drive(service, claim, run, ends_at_s)


def _settle_ended(service: Service, claim: Claim, opened: Opened) -> None:
    """An earlier attempt wrote the end, and its worker died before it released the job."""
    outcome = outcome_of(opened.events[-1])
    if outcome in DEADLY:
        claim.ending, opened.log.result_ttl_s = "dead", service.config.dead_ttl_s
    settle(claim, opened.log, outcome, num_used(opened.events))


def _refusal(service: Service, opened: Opened) -> Failure | None:
    """Why the job is not even looked at, if so."""
    if opened.is_cancelled:
        return CANCELLED
    if opened.left_ms is not None and opened.left_ms <= 0:
        return TOO_LATE
    has_tokens = any(isinstance(event, Tokens | Vectors) for event in opened.events)
    if has_tokens and opened.maker != service.info.fingerprint:
        return OTHER_MODEL
    return None


async def _refuse(service: Service, claim: Claim, opened: Opened, failure: Failure) -> End:
    await close_attempt(service.token_log, claim, opened, failure)
    service.runs.meter.failed(failure.code)
    if service.spans is not None:
        service.spans.refused(claim, failure.code)
    logger.info("job %s refused: %s", claim.job_id, failure.code)
    return "over"


async def _prepare(service: Service, claim: Claim, opened: Opened) -> AnyRun:
    if opened.damage:
        raise WireError(opened.damage)
    job = decode_job(opened.spec)
    check_task(job, service.info)
    attempt = Attempt(
        claim.attempt,
        opened.log,
        service.token_log,
        service.engine,
        Standing(claim.crashes, is_batch=claim.service_class == "batch"),
        queued_s=max(time.time() - claim.enqueued_s, 0.0),  # hosts' clocks need not agree
    )
    run_of = _text_run if service.info.task == "generate" else _vector_run
    run = await run_of(service, job, attempt, is_large=len(opened.spec) > MAX_INLINE_BYTES)
    run.replay(opened.events)
    return run


async def _text_run(service: Service, job: Job, attempt: Attempt, *, is_large: bool) -> AnyRun:
    if is_large:
        plans = await asyncio.to_thread(prepare, job, service.text, service.info)
    else:
        plans = prepare(job, service.text, service.info)
    if plans and plans[0].params.grammar:
        grammar = await service.grammars.check(plans[0].params.grammar, param_of(job))
        plans = [plan.with_grammar(grammar) for plan in plans]
    return JobRun(job, plans, service.text.tokenizer, attempt)


async def _vector_run(service: Service, job: Job, attempt: Attempt, *, is_large: bool) -> AnyRun:
    if is_large or len(job.prompts or ()) > MAX_INLINE_INPUTS:
        inputs = await asyncio.to_thread(inputs_of, job, service.text, service.info)
    else:
        inputs = inputs_of(job, service.text, service.info)
    window = STEPS_AHEAD * service.config.max_num_batched_tokens
    return VectorRun(job, inputs, attempt, window=window)


async def _drive(service: Service, claim: Claim, run: AnyRun, ends_at_s: float | None) -> End:
    """Run the sequences to their end; they are out of the engine when this returns or raises."""
    _follow(service, claim, run)
    try:
        _start(service, claim, run)
        await _until_ended(service, run, ends_at_s)
        service.token_log.flush()
        return _note_end(claim, run)
    finally:
        claim.on_cancel = claim.on_lost = claim.on_give_way = None
        service.runs.remove(run)
        run.hand_back()
        _log_end(run)
        _measure_end(service.runs.meter, run)
        if service.spans is not None:
            service.spans.ran(claim, run, [part.finish for part in run.parts if part.finish])


def _follow(service: Service, claim: Claim, run: AnyRun) -> None:
    """What the worker hears of the job goes to its run; a lost one's tokens stay here."""

    def lose() -> None:
        run.abandon()
        service.token_log.forget(run.log)

    claim.on_cancel, claim.on_lost, claim.on_give_way = run.cancel, lose, run.hand_back


def _start(service: Service, claim: Claim, run: AnyRun) -> None:
    if claim.is_lost:
        run.abandon()
    elif claim.is_cancelled:
        run.cancel()
    elif claim.gave_way:
        run.hand_back()
    else:
        service.runs.start(run)


async def _until_ended(service: Service, run: AnyRun, ends_at_s: float | None) -> None:
    limit_s = service.config.job_ttl_s
    left_s = limit_s if ends_at_s is None else max(ends_at_s - time.monotonic(), 0.0)
    await asyncio.wait([run.ended], timeout=min(limit_s, left_s))
    if not run.ended.done() and left_s < limit_s:
        run.fail(*TOO_LATE)
    elif not run.ended.done():
        run.fail("timeout", f"The request ran longer than {limit_s} s.")


def _note_end(claim: Claim, run: AnyRun) -> End:
    end, usage = run.ended.result(), run.usage
    settle(claim, run.log, run.outcome, usage.prompt_tokens + usage.completion_tokens)
    if end == "engine_died" and run.fate != "innocent":
        logger.warning("job %s: the engine died under it, %s", claim.job_id, run.fate)
        claim.ending = run.fate
    return end


def _measure_end(meter: Meter, run: AnyRun) -> None:
    if run.failure is not None:
        meter.failed(run.failure.code)
    elif run.ended.result() == "over":
        finishes = [part.finish or "error" for part in run.parts]
        meter.done(run, run.first_token_s, finishes, time.monotonic())


def _log_end(run: AnyRun) -> None:
    now_s = time.monotonic()
    usage = run.usage
    first_ms = 1000 * ((run.first_token_s or now_s) - run.began_s)
    logger.info(
        "job %s %s: attempt %d, %d prompt tokens (%d cached), %d made, first %.0f ms, all %.2f s",
        run.job.id,
        run.outcome,
        run.attempt,
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        first_ms,
        now_s - run.began_s,
    )
