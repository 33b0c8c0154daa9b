"""A fleet of real processes: one Redis, API processes and workers, each behind a proxy of its own.

Knows how to start, hurt and heal them, not what they are asked.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import redis

from deploy import children
from tests.chaos.proxies import Proxies, Proxy
from tests.conftest import RedisProcess
from workers import contract, keys

ROOT = Path(__file__).parents[2]
LEASE_S = 1.0
STEP_MS = 15.0
SETTINGS = {
    "TRAMONTANE_HOST": "127.0.0.1",
    "TRAMONTANE_ENGINE": "tests.scripted_engine:load_engine",
    "TRAMONTANE_MODEL": "builtin",
    "TRAMONTANE_MAX_SEQS": "128",
    "TRAMONTANE_LEASE_S": str(LEASE_S),
    "TRAMONTANE_HEARTBEAT_S": "0.2",
    "TRAMONTANE_NUM_THREADS": "1",
    "TRAMONTANE_PING_S": "0.5",
    "SCRIPTED_STEP_MS": str(STEP_MS),
    "OMP_NUM_THREADS": "1",
}


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 40.0) -> Any:
    """What `condition` gives once it is true."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
    return value


async def eventually(condition: Callable[[], Any], what: str, timeout_s: float = 40.0) -> None:
    """As `wait_for`, while the clients of this loop go on."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.02)


class Node:
    """One process of the fleet, with its proxy to Redis."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], proxy: Proxy, log: Path
    ) -> None:
        self.name = name
        self.process = process
        self.proxy = proxy
        self.log = log
        self.port = 0  # an API's

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL to the process alone, as the kernel does when memory is short."""
        self.process.kill()
        self.process.wait()

    def kill_tree(self) -> None:
        """SIGKILL to it and all it started, as when a machine goes."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def pause(self) -> None:
        for process in self.family():
            process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        for process in self.family():
            process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        self.process.terminate()

    def family(self) -> list[psutil.Process]:
        """The process first, so that it cannot replace a child that was killed before it."""
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]

    def engine(self) -> psutil.Process:
        """A worker's engine process."""
        for process in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "workers.engine_child" in process.cmdline():
                    return process
        raise AssertionError(f"{self.name} has no engine process")

    def rss_mb(self) -> float:
        """The largest process of the family."""
        return float(max(process.memory_info().rss for process in self.family())) / 1e6


class Fleet:
    """Processes that share a Redis. `environ` changes settings of all of them."""

    def __init__(self, proxies: Proxies, directory: Path, **environ: str) -> None:
        self.directory = directory
        self.redis = RedisProcess(directory)
        self.redis.start()
        self.apis: list[Node] = []
        self.workers: list[Node] = []
        self._proxies = proxies
        self._environ = environ
        self._num_started = 0

    @property
    def ports(self) -> list[int]:
        return [node.port for node in self.apis]

    def setting(self, variable: str) -> str:
        return {**SETTINGS, **self._environ}[variable]

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """A synchronous client of Redis itself, past the proxies."""
        with redis.Redis.from_url(self.redis.url) as client:
            yield client

    def start_api(self, **environ: str) -> Node:
        port = _free_port()
        node = self._start("api", ("api", "--port", str(port)), environ)
        node.port = port
        self.apis.append(node)
        return node

    def start_worker(self, **environ: str) -> Node:
        node = self._start("worker", ("worker",), environ)
        self.workers.append(node)
        return node

    def _start(self, role: str, command: tuple[str, ...], environ: dict[str, str]) -> Node:
        self._num_started += 1
        name = f"{self._num_started:02d}-{role}"
        log = self.directory / f"{name}.log"
        proxy = self._proxies.make(self.redis.socket)
        settings = {**SETTINGS, **self._environ, **environ}
        with log.open("wb") as file:
            process = children.spawn(
                [sys.executable, "-m", "deploy.cli", *command],
                death_signal=signal.SIGKILL,
                environ={**os.environ, "PYTHONPATH": str(ROOT), **settings, "REDIS_URL": proxy.url},
                stdout=file.fileno(),
                stderr=file.fileno(),
            )
        return Node(name, process, proxy, log)

    def heal(self, *, apis: int = 2, workers: int = 2) -> None:
        """Replace what is dead, undo what was done to the others, wait until all serve."""
        if self.redis.process is None or self.redis.process.poll() is not None:
            self.redis.start()
        for node in (*self.apis, *self.workers):
            node.proxy.restore()
            if node.is_alive:
                node.resume()
        self._replace(self.apis, apis, self.start_api)
        self._replace(self.workers, workers, self.start_worker)
        try:
            wait_for(lambda: self.num_ready() == workers, f"{workers} workers serve")
            wait_for(lambda: all(map(is_ready, self.ports)), "every API process is ready")
            wait_for(lambda: self.num_unfinished() == 0, "the queue is empty")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def _replace(self, nodes: list[Node], count: int, start: Callable[[], Node]) -> None:
        for node in [n for n in nodes if not n.is_alive] + nodes[count:]:
            if node in nodes:
                nodes.remove(node)
                self._end(node)
        while len(nodes) < count:
            start()

    def _end(self, node: Node) -> None:
        if node.is_alive:
            node.kill_tree()
        children.kill_group(node.process)
        node.proxy.close()

    def close(self) -> None:
        for node in (*self.apis, *self.workers):
            self._end(node)
        if self.redis.process is not None and self.redis.process.poll() is None:
            self.redis.kill()

    def heartbeats(self) -> dict[int, contract.Heartbeat]:
        """The gauges of live workers by process id."""
        with self.client() as client:
            names = [name.decode() for name in client.zrange(keys.WORKERS_KEY, 0, -1)]
            found = client.mget([keys.worker_key(name) for name in names]) if names else []
        beats = [contract.decode_heartbeat(data) for data in found if data]
        own = {node.pid for node in self.workers if node.is_alive}
        return {pid: beat for beat in beats if (pid := int(beat.worker.split("-")[-2])) in own}

    def num_ready(self) -> int:
        return sum(not beat.is_draining for beat in self.heartbeats().values())

    def num_running(self) -> int:
        return sum(beat.running + beat.waiting for beat in self.heartbeats().values())

    def num_unfinished(self) -> int:
        with self.client() as client:
            queues = [contract.decode_card(c).queue for c in client.hvals(keys.MODELS_KEY)]
            return sum(client.zcard(queue) for queue in queues)

    def busiest(self) -> Node:
        """The worker with the most sequences."""
        beats = self.heartbeats()
        alive = [node for node in self.workers if node.pid in beats]
        return max(alive, key=lambda node: beats[node.pid].running)

    def attempts(self, job_id: str) -> int:
        """How many attempts a job took."""
        with self.client() as client:
            return int(client.hget(keys.job_key(job_id), "attempts") or 0)

    def log_of(self, job_id: str) -> list[contract.Event]:
        with self.client() as client:
            entries = client.lrange(keys.log_key(job_id), 0, -1)
        return [contract.decode_event(entry) for entry in entries]

    def has_logged(self, text: str) -> bool:
        paths = self.directory.glob("*.log")
        return any(text in path.read_text(errors="replace") for path in paths)

    def log_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.directory.glob("*.log"))

    def logs(self) -> str:
        """The ends of what the processes wrote."""
        paths = sorted(self.directory.glob("*.log"))
        return "\n".join(f"== {p.name}\n{p.read_text(errors='replace')[-3000:]}" for p in paths)


@contextlib.contextmanager
def fleet_of(proxies: Proxies, *, apis: int, workers: int, **environ: str) -> Iterator[Fleet]:
    """A fleet in a directory of its own, ready to serve."""
    with tempfile.TemporaryDirectory(prefix="tr-chaos-") as directory:
        fleet = Fleet(proxies, Path(directory), **environ)
        try:
            fleet.heal(apis=apis, workers=workers)
            yield fleet
        finally:
            fleet.close()


def ready_body(port: int) -> dict[str, Any]:
    """GET /ready, whatever its status."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2) as answer:
            return {"code": 200, **msgspec.json.decode(answer.read())}
    except urllib.error.HTTPError as error:
        with error:
            return {"code": error.code, **msgspec.json.decode(error.read())}


def is_ready(port: int) -> bool:
    try:
        return bool(ready_body(port)["code"] == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
