"""The processes that `tramontane chaos` hurts: a private Redis, API processes, workers.

Knows how to start, kill and replace them. Everything is gone after `close`, whatever happened.
"""

import contextlib
import json
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deploy import children, preflight, roles, settings
from deploy.chaos_client import HOST
from deploy.errors import StartError
from deploy.redis_server import EmbeddedRedis

LEASE_S = 2.0
_KEPT = frozenset({"REDIS_SERVER_BIN"})
_SETTINGS = {
    "TRAMONTANE_HOST": HOST,
    "TRAMONTANE_LEASE_S": str(LEASE_S),
    "TRAMONTANE_HEARTBEAT_S": "0.1",
    "TRAMONTANE_NUM_THREADS": "1",  # two workers share the machine
}
_START_S = 90.0
_STOP_S = 5.0
_POLL_S = 0.05
_GAUGES_S = 1.0  # ten heartbeats


class Node(NamedTuple):
    """One process. `port` is an API's, 0 for a worker."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0

    @property
    def pid(self) -> int:
        """Its process id, which is in a worker's name, too."""
        return self.process.pid


class Stage:
    """A context manager; start it from the main thread. Raises StartError."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.apis: list[Node] = []
        self.workers: list[Node] = []
        ours = settings.known_variables() - _KEPT
        self._environ = {k: v for k, v in environ.items() if k not in ours} | _SETTINGS
        self._num_started = 0

    def __enter__(self) -> "Stage":
        with contextlib.ExitStack() as exits:
            directory = tempfile.TemporaryDirectory(
                prefix="tramontane-chaos-", ignore_cleanup_errors=True
            )
            self._directory = Path(exits.enter_context(directory))
            redis = EmbeddedRedis(
                self._directory / "redis", binary=self._environ.get("REDIS_SERVER_BIN", "")
            )
            redis.start()
            exits.callback(redis.stop)
            exits.callback(self._stop_all)
            self._environ["REDIS_URL"] = redis.url
            self.complete()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *unused: object) -> None:
        self._exits.close()

    def complete(self) -> None:
        """Two of each, new ones for those that were killed; returns when all serve."""
        while len(self.workers) < 2:
            self.workers.append(self._start("worker", roles.worker_command(), self._environ))
        while len(self.apis) < 2:
            port = preflight.claim_port(HOST, 0)
            environ = {**self._environ, "PORT": str(port)}
            self.apis.append(self._start("api", roles.api_command(environ), environ, port))
        self._wait_until_ready()

    def _start(
        self, role: str, command: list[str], environ: Mapping[str, str], port: int = 0
    ) -> Node:
        self._num_started += 1
        log = self._directory / f"{role}-{self._num_started}.log"
        with log.open("wb") as file:
            process = children.spawn(
                command,
                death_signal=signal.SIGKILL,
                environ=roles.child_environment(environ),
                stdout=file.fileno(),
                stderr=file.fileno(),
            )
        return Node(process, log, port)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        while not all(len(self._heartbeats(api)) == len(self.workers) for api in self.apis):
            for node in (*self.apis, *self.workers):
                if node.process.poll() is not None or time.monotonic() > deadline:
                    words = node.log.read_text(errors="replace").strip()[-1000:]
                    raise StartError(f"a process does not start: {words or 'it says nothing'}")
            time.sleep(_POLL_S)

    def busiest(self, num_sequences: int) -> Node:
        """The worker that runs the most of so many sequences."""
        deadline = time.monotonic() + _GAUGES_S
        while True:
            beats = self._heartbeats(self.apis[-1])
            running = {pid: beat["running"] for pid, beat in beats.items()}
            # A gauge of before they began would have the other worker killed, whom nobody misses.
            if sum(running.values()) >= num_sequences or time.monotonic() > deadline:
                return max(self.workers, key=lambda worker: running.get(worker.pid, -1))
            time.sleep(_POLL_S)

    def _heartbeats(self, api: Node) -> dict[int, dict[str, Any]]:
        """What the living workers say, by process id; none while the API is not ready."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{api.port}/ready", timeout=2) as answer:
                beats = json.load(answer)["workers"]
        except (urllib.error.URLError, OSError):
            return {}
        own = {worker.pid for worker in self.workers}
        return {pid: beat for beat in beats if (pid := int(beat["worker"].split("-")[-2])) in own}

    def kill(self, *nodes: Node) -> None:
        """SIGKILL processes and all that they started, at once: nobody may say goodbye."""
        for node in nodes:
            children.kill_group(node.process)
            for group in (self.apis, self.workers):
                if node in group:
                    group.remove(node)

    def _stop_all(self) -> None:
        nodes = [*self.apis, *self.workers]
        for node in nodes:
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGINT)
        for node in nodes:
            children.stop(node.process, _STOP_S)
