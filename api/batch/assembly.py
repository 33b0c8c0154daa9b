"""Puts files and batches together. Knows the wiring only."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from api.batch.end import BatchEnd, OnEnd
from api.batch.input import BatchInput
from api.batch.jobs import Endpoint, endpoints
from api.batch.results import BatchResults
from api.batch.run import BatchRun
from api.batch.store import BatchStore
from api.batches import Batches
from api.file_store import FileStore
from api.files import Files
from api.generation import Generation


class Batching(NamedTuple):
    """One API process's files and batches.

    `run.handle` does the chores of the kind `batch`, `results.on_line` hears of lines that ended.
    """

    files: FileStore
    store: BatchStore
    results: BatchResults
    run: BatchRun
    endpoints: Mapping[str, Endpoint]


def batching(
    generation: Generation, on_end: OnEnd, clock: Callable[[], float] = time.time
) -> Batching:
    """The files and batches of one API process. Half of each queue is left to other jobs."""
    broker, config = generation.broker, generation.config
    redis, call = broker.redis, broker.call
    known = endpoints(generation)

    async def cancel(job_id: str, queue: str) -> None:
        view = await broker.view(job_id)
        if view is not None:
            await broker.cancel(view.job, queue)

    files = FileStore(
        redis,
        call,
        ttl_s=config.file_ttl_s,
        max_stored_bytes=config.max_stored_bytes,
        check_room=broker.memory.check,
        clock=clock,
    )
    store = BatchStore(redis, call, ttl_s=config.file_ttl_s, clock=clock)
    source = BatchInput(store, files, config.max_body_bytes)
    results = BatchResults(redis, call, store, window=config.batch_window)
    end = BatchEnd(store, files, source, results, cancel, on_end)
    run = BatchRun(
        store,
        source,
        results,
        end,
        known,
        broker.enqueue,
        cancel,
        window=config.batch_window,
        max_queued=max(1, config.max_queue // 2),
        clock=clock,
    )
    return Batching(files, store, results, run, known)


def add_routes(app: Any, parts: Batching, generation: Generation) -> None:
    """The routes of files and batches."""
    files = Files(parts.files, generation.keys, generation.config)
    app.add_route("/v1/files", files)
    app.add_route("/v1/files/{file_id}", files, suffix="one")
    app.add_route("/v1/files/{file_id}/content", files, suffix="content")
    batches = Batches(parts.store, parts.files, generation, parts.endpoints)
    app.add_route("/v1/batches", batches)
    app.add_route("/v1/batches/{batch_id}", batches, suffix="one")
    app.add_route("/v1/batches/{batch_id}/cancel", batches, suffix="cancel")
