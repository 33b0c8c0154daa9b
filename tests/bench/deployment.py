"""Redis, a worker with a scripted engine and one API process, as the bench starts them."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

import psutil

from deploy.redis_server import EmbeddedRedis

ROOT = Path(__file__).parents[2]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Deployment:
    """Context manager; `port` is the API's."""

    def __init__(self, directory: Path, *, step_ms: float, max_seqs: int) -> None:
        self.directory = directory
        self.port = _free_port()
        self.redis = EmbeddedRedis(directory / "redis")
        self.settings = {
            "TRAMONTANE_ENGINE": "tests.scripted_engine:load_engine",
            "TRAMONTANE_MAX_SEQS": str(max_seqs),
            "TRAMONTANE_HOST": "127.0.0.1",
            "SCRIPTED_STEP_MS": str(step_ms),
        }
        self.processes: dict[str, psutil.Process] = {}

    def __enter__(self) -> "Deployment":
        try:
            self.redis.start()
            self._start("worker", "worker")
            self._start("api", "api", "--port", str(self.port))
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self, name: str, *command: str) -> None:
        environ = {**os.environ, **self.settings, "REDIS_URL": self.redis.url}
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "deploy.cli", *command],
                cwd=ROOT,
                env=environ,
                stdout=log,
                stderr=log,
            )
        self.processes[name] = psutil.Process(process.pid)

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                logs = [p.read_text()[-2000:] for p in self.directory.glob("*.log")]
                assert time.monotonic() < deadline, logs
                time.sleep(0.1)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        _, alive = psutil.wait_procs(list(self.processes.values()), 15)
        for process in alive:
            process.kill()
        self.redis.stop()

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds so far by role; children belong to their parent's role."""
        seconds = {name: _tree_cpu_s(process) for name, process in self.processes.items()}
        return seconds | {"redis": _tree_cpu_s(psutil.Process(self.redis.pid))}

    def api_rss_mb(self) -> float:
        """The largest process of the API."""
        api = self.processes["api"]
        family = [api, *api.children(recursive=True)]
        return float(max(p.memory_info().rss for p in family)) / 1e6


def _tree_cpu_s(process: psutil.Process) -> float:
    times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    return float(sum(t.user + t.system for t in times))
