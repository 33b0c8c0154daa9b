"""The arq function `generate`: one attempt at one job, to a durable end. Knows no queue."""

import asyncio
import contextlib
import logging
import time
from typing import Any

from arq import Retry

from engine.errors import EngineError
from workers.attempt import Opened, close_attempt, open_attempt
from workers.contract import WireError, decode_job
from workers.engine_process import EngineDied
from workers.job_run import INTERNAL_ERROR, End, JobRun
from workers.lease import Claim
from workers.logs import without_message
from workers.prepare import prepare
from workers.service import Service

logger = logging.getLogger(__name__)

MAX_INLINE_BYTES = 32_768  # a larger job is prepared in a thread, so that others' tokens flow on
HAND_BACK_S = 2.0  # how long a stopping worker waits for Redis to take the last tokens


async def generate(ctx: dict[str, Any], job_id: str) -> None:
    """Run the job until its log is closed and durable, or give it up to another attempt.

    Raises Retry when the engine died; arq's cancellation hands the job back.
    """
    service: Service = ctx["service"]
    claim = service.leases.claims[job_id]
    opened = await open_attempt(
        service.scripts,
        claim,
        service.worker,
        service.config.job_ttl_s,
        service.info.fingerprint,
    )
    if opened is None:
        claim.lose()
        return
    opened.log.on_fenced = claim.lose
    try:
        end = await _attempt(service, claim, opened)
    except asyncio.CancelledError:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HAND_BACK_S):
                await opened.log.settled()
        raise
    if end == "over" and await opened.log.settled():
        claim.is_over = True
    elif end == "engine_died":
        claim.ending = "crashed"
        raise Retry
    else:
        service.token_log.forget(opened.log)


async def _attempt(service: Service, claim: Claim, opened: Opened) -> End:
    if opened.log.is_over:
        return "over"
    if opened.is_cancelled:
        return await _refuse(service, opened, "cancelled", "The request was cancelled.")
    try:
        run = await _prepare(service, claim, opened)
    except WireError as error:
        logger.error("job %s: %s", claim.job_id, error)
        return await _refuse(service, opened, "unreadable_job", str(error))
    except EngineError as error:
        return await _refuse(service, opened, error.code, str(error), error.param)
    except Exception as error:
        logger.error("job %s: %s", claim.job_id, without_message(error))
        return await _refuse(service, opened, "internal_error", INTERNAL_ERROR)
    return await _drive(service, claim, run)


async def _refuse(
    service: Service, opened: Opened, code: str, message: str, param: str | None = None
) -> End:
    await close_attempt(service.token_log, opened.log, code, message, param)
    logger.info("job %s refused: %s", opened.log.job_id, code)
    return "over"


async def _prepare(service: Service, claim: Claim, opened: Opened) -> JobRun:
    if opened.damage:
        raise WireError(opened.damage)
    job = decode_job(opened.spec)
    if len(opened.spec) > MAX_INLINE_BYTES:
        plans = await asyncio.to_thread(prepare, job, service.text, service.info)
    else:
        plans = prepare(job, service.text, service.info)
    run = JobRun(
        job,
        plans,
        service.text.tokenizer,
        attempt=claim.attempt,
        log=opened.log,
        token_log=service.token_log,
        engine=service.engine,
    )
    run.replay(opened.events)
    return run


async def _drive(service: Service, claim: Claim, run: JobRun) -> End:
    """Run the sequences to their end; they are out of the engine when this returns or raises."""
    claim.on_cancel, claim.on_lost = run.cancel, run.abandon
    try:
        _start(service, claim, run)
        await asyncio.wait([run.ended], timeout=service.config.job_ttl_s)
        if not run.ended.done():
            run.fail("timeout", f"The request ran longer than {service.config.job_ttl_s} s.")
        service.token_log.flush()
        return run.ended.result()
    except EngineDied:
        return "engine_died"
    finally:
        claim.on_cancel = claim.on_lost = None
        service.runs.remove(run)
        run.hand_back()
        _log_end(run)


def _start(service: Service, claim: Claim, run: JobRun) -> None:
    if claim.is_lost:
        run.abandon()
    elif claim.is_cancelled:
        run.cancel()
    else:
        service.runs.start(run)


def _log_end(run: JobRun) -> None:
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
