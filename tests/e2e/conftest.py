"""A whole deployment with the built-in model: one Redis, one worker, two API processes."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import openai
import pytest

ROOT = Path(__file__).parents[2]
WEBHOOK_SECRET = "whsec_" + "c2VjcmV0" * 4


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Stack:
    """Real processes, started as a Procfile would start them."""

    def __init__(self, redis_url: str, directory: Path) -> None:
        self.directory = directory
        self.environ = {
            **os.environ,
            "REDIS_URL": redis_url,
            "TRAMONTANE_HOST": "127.0.0.1",
            "TRAMONTANE_LEASE_S": "2",
            "TRAMONTANE_HEARTBEAT_S": "0.2",
            "TRAMONTANE_NUM_THREADS": "1",
            # Any API process may be the one that calls, so all of them may call this machine.
            "TRAMONTANE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "TRAMONTANE_WEBHOOK_ALLOW_PRIVATE": "true",
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, **environ: str) -> subprocess.Popen[bytes]:
        log = (self.directory / f"{len(self.processes)}-{command[0]}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", *command],
            cwd=ROOT,
            env={**self.environ, **environ},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        self.processes.append(process)
        return process

    def start_api(self) -> tuple[str, subprocess.Popen[bytes]]:
        port = free_port()
        process = self.start("api", "--port", str(port))
        return f"http://127.0.0.1:{port}", process

    def start_worker(self) -> subprocess.Popen[bytes]:
        self.worker = self.start("worker")
        return self.worker

    def logs(self) -> str:
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-4000:]}"
            for path in sorted(self.directory.glob("*.log"))
        )

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def is_ready(url: str) -> bool:
    try:
        return httpx2.get(url + "/ready", timeout=2).status_code == 200
    except httpx2.TransportError:
        return False


@pytest.fixture(scope="session")
def wait() -> Callable[..., None]:
    return wait_for


@pytest.fixture(scope="session")
def unused_port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def new_stack() -> type[Stack]:
    return Stack


@pytest.fixture(scope="session")
def stack(_shared_redis) -> Iterator[Stack]:
    """On a Redis of its own: its worker lives, and beats, as long as the session does."""
    with (
        tempfile.TemporaryDirectory(prefix="tr-") as data,
        tempfile.TemporaryDirectory(prefix="tr-e2e-") as directory,
    ):
        server = type(_shared_redis)(Path(data))
        server.start()
        stack = Stack(server.url, Path(directory))
        stack.start_worker()
        yield stack
        stack.stop()
        server.stop()


@pytest.fixture(scope="session")
def api_url(stack: Stack) -> str:
    url, _ = stack.start_api()
    try:
        wait_for(lambda: is_ready(url), "the API and the worker are ready", 60)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{stack.logs()}") from None
    return url


@pytest.fixture(scope="session")
def other_api_url(stack: Stack, api_url: str) -> str:
    url, _ = stack.start_api()
    wait_for(lambda: is_ready(url), "the second API is ready", 60)
    return url


@pytest.fixture
def client(api_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=api_url + "/v1", api_key="none", max_retries=0) as client:
        yield client
