"""Puts a worker together and runs it: model, engine process, Redis, arq. Knows no exit code."""

import asyncio
import contextlib
import functools
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from arq.connections import ArqRedis
from redis.exceptions import RedisError

from engine.capacity import check_sizes
from engine.messages import EngineInfo
from engine.progress_bar import Bar
from engine.quant.names import isq_name
from engine.text.pair_template import with_pair_template
from engine.text.text_model import TextModel, load_text_model
from engine.weights.files import ModelFiles, resolve
from engine.weights.isq_settings import check_isq
from workers.answering import Answering
from workers.config import WorkerConfig, engine_config, model_ref, template_choice
from workers.contract import (
    WORKERS_KEY,
    ModelCard,
    control_channel,
    isq_channel,
    queue_key,
    wake_channel,
    worker_key,
)
from workers.engine_process import EngineProcess
from workers.environment import variables
from workers.grammar_trial import GrammarTrial
from workers.heartbeat import Pulse
from workers.lease import Leases
from workers.lease_thread import LeaseThread
from workers.metric_families import families_of, text_of
from workers.metrics_port import metrics_port
from workers.redis_link import COMMAND_TIMEOUT_S, MAX_BACKOFF_S, TRANSIENT, Scripts, close, connect
from workers.redis_policy import check_policy
from workers.requantize import Place, Requantizer, start_as_wanted
from workers.runs import Runs
from workers.service import Service
from workers.subscription import Subscription
from workers.system import system_fingerprint
from workers.token_log import TokenLog
from workers.tracing import open_collector
from workers.watch import Watch
from workers.worker import EngineWorker

if TYPE_CHECKING:
    from workers.collector import Collector
    from workers.job_spans import JobSpans

logger = logging.getLogger(__name__)

GOODBYE_S = 1.0


async def run_worker(config: WorkerConfig) -> None:
    """Serve until SIGTERM or SIGINT. Raises SettingError, LoadError, EngineDied."""
    check_sizes(engine_config(config))
    check_isq(engine_config(config))
    collector = open_collector(config.otlp_endpoint, "tramontane-worker")
    try:
        await _with_redis(config, collector)
    finally:
        if collector is not None:
            await collector.close()


async def _with_redis(config: WorkerConfig, collector: "Collector | None") -> None:
    files = await _find(config)
    text = await asyncio.to_thread(load_text_model, files, template_choice(config))
    name = config.model_name or files.name
    client = connect(config.redis_url, queue_key(name))
    try:
        # Before minutes of loading, if Redis is there yet.
        with contextlib.suppress(*TRANSIENT):
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                await check_policy(client, config.redis_url)
        await _load_and_serve(config, files, text, name, client, collector)
    finally:
        await close(client)


async def _load_and_serve(
    config: WorkerConfig,
    files: ModelFiles,
    text: TextModel,
    name: str,
    client: ArqRedis,
    collector: "Collector | None",
) -> None:
    scripts = Scripts(client)
    worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    token_log = TokenLog(scripts, job_ttl_s=config.job_ttl_s, result_ttl_s=config.result_ttl_s)
    runs = Runs(token_log)
    place = Place(worker, name, isq_name(config.isq) if config.isq else "")
    start = functools.partial(start_as_wanted, client, scripts, place)
    async with _started(config, files, runs, token_log, start) as (engine, change):
        assert engine.info is not None
        if engine.info.task == "score":
            text = with_pair_template(text, files)
        grammars = GrammarTrial(files, engine.info.vocab_size, text.tokenizer.eos_ids)
        service = _service(config, worker, name, text, engine, scripts, token_log, runs, grammars)
        if collector is not None:
            service = service._replace(spans=_job_spans(collector))
        service.pulse.isq, service.pulse.isq_change = service.info.isq, change
        requantizer = Requantizer(scripts, place, engine, service.pulse)
        try:
            await _serve(service, requantizer, client)
        finally:
            await grammars.close()


def _job_spans(collector: "Collector") -> "JobSpans":
    from workers.job_spans import JobSpans  # it imports an extra

    return JobSpans(collector)


@contextlib.asynccontextmanager
async def _started(
    config: WorkerConfig,
    files: ModelFiles,
    runs: Runs,
    token_log: TokenLog,
    start: Callable[[EngineProcess], Awaitable[str]],
) -> AsyncIterator[tuple[EngineProcess, str]]:
    """The engine, and the change of weights that it was started with."""
    bar = Bar(f"Loading {files.name}")
    engine = EngineProcess(
        config.engine,
        files,
        engine_config(config, variables()),
        on_outputs=runs.on_outputs,
        on_death=runs.on_engine_death,
        on_exhausted=runs.on_engine_exhausted,
        on_stats=runs.on_stats,
        on_progress=bar,
        gate=token_log.room,
        log_level=config.log,
    )
    try:
        change = await start(engine)
        bar.close()
        yield engine, change
    finally:
        bar.close()
        await engine.close()


def _service(
    config: WorkerConfig,
    worker: str,
    name: str,
    text: TextModel,
    engine: EngineProcess,
    scripts: Scripts,
    token_log: TokenLog,
    runs: Runs,
    grammars: GrammarTrial,
) -> Service:
    assert engine.info is not None
    queue = queue_key(name)
    leases = Leases(
        scripts,
        worker=worker,
        queue=queue,
        lease_s=config.lease_s,
        job_ttl_s=config.job_ttl_s,
        result_ttl_s=config.result_ttl_s,
    )
    token_log.recheck = leases.renew
    card = _card(name, engine.info)
    pulse = Pulse(
        scripts,
        worker,
        card,
        lambda: engine.stats,
        counts=runs.meter.counts,
        period_s=config.heartbeat_s,
    )
    return Service(
        config,
        worker,
        queue,
        text,
        engine.info,
        engine,
        scripts,
        token_log,
        leases,
        runs,
        pulse,
        grammars,
    )


async def _serve(service: Service, requantizer: Requantizer, client: ArqRedis) -> None:
    worker = EngineWorker(service, client)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    logger.info("worker %s serves %s", service.worker, service.queue)
    try:
        async with metrics_port(
            service.config.metrics_port, lambda: text_of(families_of([service.pulse.gauges()]))
        ):
            await worker.main(
                service.engine.run(),
                service.token_log.run(),
                lease_thread(service).run(),
                service.pulse.run(),
                subscription(worker).run(),
                requantizer.run(),
                answering(service).run(),
                _keep_policy(service, client),
            )
    finally:
        await _say_goodbye(service, client)


def subscription(worker: EngineWorker) -> Subscription:
    """What wakes the worker and tells it of cancels."""
    service = worker.service
    return Subscription(
        service.config.redis_url,
        {
            wake_channel(service.queue): lambda _: worker.wake(),
            control_channel(service.queue): service.leases.cancel,
            isq_channel(service.queue): lambda _: service.pulse.nudge(),
        },
        on_ready=worker.wake,
    )


def answering(service: Service) -> Answering:
    """What answers questions about texts."""
    return Answering(service.config.redis_url, service.queue, service.text, service.info)


def lease_thread(service: Service) -> LeaseThread:
    """What renews the leases of the worker and watches its engine."""
    watch = Watch(
        service.engine,
        lambda: service.runs.has_work,
        device=service.info.device,
        stall_s=service.config.stall_s,
    )
    return LeaseThread(service.leases, service.config.redis_url, watch.look, look_s=watch.period_s)


async def _keep_policy(service: Service, client: ArqRedis) -> None:
    """Look at Redis as soon as it is there; then stay, as the worker's loops do."""
    url = service.config.redis_url
    while True:
        with contextlib.suppress(*TRANSIENT):
            await check_policy(client, url)
            await asyncio.Event().wait()
        await asyncio.sleep(MAX_BACKOFF_S)


async def _say_goodbye(service: Service, client: ArqRedis) -> None:
    """Leave the fleet's directory at once; its entries would go by themselves."""
    with contextlib.suppress(TimeoutError, OSError, RedisError):
        async with asyncio.timeout(GOODBYE_S):
            await client.delete(worker_key(service.worker))
            await client.zrem(WORKERS_KEY, service.worker)


async def _find(config: WorkerConfig) -> ModelFiles:
    bar = Bar(f"Downloading {config.model}")
    try:
        return await asyncio.to_thread(resolve, model_ref(config), bar, variables())
    finally:
        bar.close()


def _card(name: str, info: EngineInfo) -> ModelCard:
    return ModelCard(
        name=name,
        queue=queue_key(name),
        context_length=info.context_length,
        vocab_size=info.vocab_size,
        created_s=int(time.time()),
        fingerprint=system_fingerprint(info),
        device=info.device,
        dtype=info.dtype,
        kv_tokens=info.kv_tokens,
        max_seqs=info.max_seqs,
        isq_types=info.isq_types,
        task=info.task,
        vector_size=info.vector_size,
    )
