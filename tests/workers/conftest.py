"""Fixtures of the worker's tests: the wire, a worker inside the test's loop, worker processes."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from engine.messages import EngineStats, SequenceRequest
from engine.text.text_model import TextModel, load_text_model
from engine.weights.files import ModelFiles, ModelRef, resolve
from tests.scripted_engine import ScriptedEngine
from tests.workers.wire import QUEUE, Wire
from workers.assembly import lease_thread, subscription
from workers.config import WorkerConfig, engine_config
from workers.contract import WORKERS_KEY, ModelCard
from workers.engine_process import EngineProcess
from workers.grammar_trial import GrammarTrial
from workers.heartbeat import Pulse
from workers.lease import Leases
from workers.redis_link import Scripts, close, connect
from workers.runs import Runs
from workers.service import Service
from workers.token_log import TokenLog
from workers.worker import EngineWorker

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def model_files() -> ModelFiles:
    return resolve(ModelRef(model="builtin"))


@pytest.fixture(scope="session")
def text(model_files: ModelFiles) -> TextModel:
    return load_text_model(model_files)


@pytest.fixture
async def wire(redis_url: str) -> AsyncIterator[Wire]:
    wire = Wire(redis_url)
    yield wire
    await wire.client.aclose()


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[Scripts]:
    """The worker's scripts over a client of their own."""
    client = connect(redis_url, QUEUE)
    yield Scripts(client)
    await close(client)


class LocalEngine:
    """A scripted engine in the worker's own loop, in the place of EngineProcess."""

    def __init__(self, engine: ScriptedEngine, runs: Runs, step_s: float) -> None:
        self.engine = engine
        self.info = engine.info
        self.is_ready = True
        self.num_reports = 0
        self.is_heard = True
        self.num_kills = 0
        self.step_s = step_s
        self._runs = runs
        self._work = asyncio.Event()

    @property
    def stats(self) -> EngineStats:
        return self.engine.stats()

    def add(self, request: SequenceRequest) -> None:
        self.engine.add(request)
        self._work.set()

    def cancel(self, sequence_id: str) -> None:
        self.engine.cancel(sequence_id)

    def die(self) -> None:
        """What EngineProcess does when its child has gone."""
        for sequence_id in list(self.engine._running) + list(self.engine._waiting):
            self.engine.cancel(sequence_id)
        self._runs.on_engine_death()

    def kill(self) -> None:
        self.num_kills += 1
        self.die()

    async def run(self) -> None:
        while True:
            if not self.engine.has_work():
                self._work.clear()
                await self._work.wait()
            await asyncio.sleep(self.step_s)
            self._runs.on_outputs(self.engine.step())
            self._runs.on_stats(self.stats)
            self.num_reports += 1


class ChildEngine(EngineProcess):
    """The scripted engine in a process of its own, started with the worker's loops."""

    async def run(self) -> None:
        await self.start()
        await super().run()


class LocalWorker:
    """A whole worker in the test's loop, its engine with it unless `has_process`.

    `factory` makes the engine of the process.
    """

    def __init__(
        self, url: str, name: str, text: TextModel, files: ModelFiles, **settings: Any
    ) -> None:
        step_s = settings.pop("step_s", 0.0)
        factory = settings.pop("factory", "tests.scripted_engine:load_engine")
        has_process = settings.pop("has_process", False)
        config = WorkerConfig(redis_url=url, **{"lease_s": 1.0, **settings})
        self.client = connect(url, QUEUE)
        scripts = Scripts(self.client)
        ttls = {"job_ttl_s": config.job_ttl_s, "result_ttl_s": config.result_ttl_s}
        token_log = TokenLog(scripts, **ttls)
        runs = Runs(token_log)
        scripted = ScriptedEngine(files, engine_config(config))
        self.engine: Any = LocalEngine(scripted, runs, step_s)
        if has_process:
            self.engine = ChildEngine(
                factory,
                files,
                engine_config(config),
                on_outputs=runs.on_outputs,
                on_death=runs.on_engine_death,
                on_exhausted=runs.on_engine_exhausted,
                on_stats=runs.on_stats,
                gate=token_log.room,
                log_level="off",
            )
        leases = Leases(scripts, worker=name, queue=QUEUE, lease_s=config.lease_s, **ttls)
        token_log.recheck = leases.renew
        card = ModelCard(name="m", queue=QUEUE, context_length=1, vocab_size=1, created_s=0)
        pulse = Pulse(
            scripts,
            name,
            card,
            lambda: self.engine.stats,
            counts=runs.meter.counts,
            period_s=config.heartbeat_s,
        )
        self.service = Service(
            config,
            name,
            QUEUE,
            text,
            scripted.info,
            cast(EngineProcess, self.engine),
            scripts,
            token_log,
            leases,
            runs,
            pulse,
            GrammarTrial(files, scripted.info.vocab_size, text.tokenizer.eos_ids),
        )
        self.worker = EngineWorker(self.service, self.client)
        self.task: asyncio.Task[None] | None = None

    def start(self) -> "LocalWorker":
        service = self.service
        self.task = asyncio.create_task(
            self.worker.main(
                self.engine.run(),
                service.token_log.run(),
                lease_thread(service).run(),
                service.pulse.run(),
                subscription(self.worker).run(),
            )
        )
        return self

    async def end(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        if isinstance(self.engine, ChildEngine):
            await self.engine.close()
        await self.service.grammars.close()
        await close(self.client)


@pytest.fixture
async def local_worker(
    redis_url: str, text: TextModel, model_files: ModelFiles
) -> AsyncIterator[Callable[..., LocalWorker]]:
    """Makes workers inside the test's loop; call `.start()` to let one take jobs."""
    workers: list[LocalWorker] = []

    def make(name: str = "w1", url: str = redis_url, **settings: Any) -> LocalWorker:
        workers.append(LocalWorker(url, name, text, model_files, **settings))
        return workers[-1]

    yield make
    for worker in workers:
        await worker.end()


def is_known(url: str, pid: int) -> bool:
    """True if this very process is in the fleet's directory; one that was killed may be, too."""
    with redis.Redis.from_url(url) as client:
        names = cast(list[bytes], client.zrange(WORKERS_KEY, 0, -1))
    return any(f"-{pid}-".encode() in name for name in names)


class Processes:
    """Worker processes with the scripted engine, and what they said."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, url: str, **environ: str) -> subprocess.Popen[bytes]:
        variables = {
            **os.environ,
            "REDIS_URL": url,
            "TRAMONTANE_ENGINE": "tests.scripted_engine:load_engine",
            "TRAMONTANE_MODEL_NAME": "m",
            "TRAMONTANE_LEASE_S": "1",
            "SCRIPTED_STEP_MS": "10",
            **environ,
        }
        with (self.directory / f"{len(self.started)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers"], cwd=ROOT, env=variables, stderr=log
            )
        self.started.append(process)
        return process

    def start_ready(
        self, url: str, count: int = 1, **environ: str
    ) -> list[subprocess.Popen[bytes]]:
        """Start `count` workers and wait until Redis knows them."""
        processes = [self.start(url, **environ) for _ in range(count)]
        deadline = time.monotonic() + 30
        while not all(is_known(url, process.pid) for process in processes):
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.02)
        return processes

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.directory.glob("*.log")))

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()


@pytest.fixture
def processes() -> Iterator[Processes]:
    with tempfile.TemporaryDirectory(prefix="tr-") as directory:
        processes = Processes(Path(directory))
        yield processes
        processes.end()
