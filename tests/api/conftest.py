"""A real gunicorn with the real app, a real Redis, and the fake worker."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from api.config import ApiConfig
from api.server import command
from tests.api.batch_app import BatchApp, process
from tests.api.fake_worker import TASKS, FakeWorker
from workers.environment import settings_of

ROOT = Path(__file__).parents[2]


class Reply:
    """A whole HTTP response."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def frames(self) -> list[tuple[int | None, Any]]:
        return parse_frames(self.body)


def parse_frames(body: bytes) -> list[tuple[int | None, Any]]:
    """(id, data) of each SSE frame; data is parsed JSON or the string [DONE]."""
    frames: list[tuple[int | None, Any]] = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line[1:])
        if "data" in fields:
            data = fields["data"]
            number = int(fields["id"]) if "id" in fields else None
            frames.append((number, data if data == "[DONE]" else json.loads(data)))
    return frames


class ApiServer:
    """gunicorn with one worker process."""

    def __init__(self, redis_url: str, directory: Path, **settings: Any) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])
        self.config = ApiConfig(host="127.0.0.1", port=self.port, redis_url=redis_url, **settings)
        self.log = directory / f"api-{self.port}.log"
        self.start()

    def start(self) -> None:
        settings = [s for s in settings_of(ApiConfig) if s.field not in ("port", "web_concurrency")]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("TRAMONTANE_")}
        for setting in settings:
            value = getattr(self.config, setting.field)
            if value != "":
                text = str(value).lower() if isinstance(value, bool) else str(value)
                environ[setting.variable] = text
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command(self.config), cwd=ROOT, env=environ, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while not self.is_up():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def is_up(self) -> bool:
        try:
            return self.get("/live").status == 200
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def worker(self) -> psutil.Process:
        """The process that serves."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def connect(self, timeout: float = 20) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        connection = self.connect()
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, data, names)
            return Reply(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, **headers)

    def chat(self, prompt: str, **fields: Any) -> Reply:
        return self.request("POST", "/v1/chat/completions", chat_body(prompt, **fields))

    def stop(self, sig: int = signal.SIGTERM) -> int:
        self.process.send_signal(sig)
        return self.process.wait(40)

    def kill(self) -> None:
        """End it at once: a stop takes gunicorn more than a second."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children():
                process.kill()
        self.process.kill()
        self.process.wait()


def chat_body(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": "any", "messages": [{"role": "user", "content": prompt}], **fields}


@pytest.fixture(scope="session")
def start_api() -> Callable[..., ApiServer]:
    """Starts an API process; the test stops it."""
    return ApiServer


@pytest.fixture(scope="session")
def wait() -> Callable[..., None]:
    def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
            time.sleep(0.01)

    return wait_for


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tr-api-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def api_redis(_shared_redis) -> Iterator[Any]:
    """A server that only the tests of the API see: other tests flush theirs."""
    with tempfile.TemporaryDirectory(prefix="tr-") as name:
        server = type(_shared_redis)(Path(name))
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
def fake_worker(api_redis) -> Iterator[FakeWorker]:
    worker = FakeWorker(api_redis.url)
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture(scope="session")
def make_worker() -> type[FakeWorker]:
    return FakeWorker


@pytest.fixture(scope="session")
def api(api_redis, fake_worker, directory, wait) -> Iterator[ApiServer]:
    """The server that most tests share."""
    server = ApiServer(api_redis.url, directory, ping_s=0.3, max_body_bytes=1 << 20)
    wait(lambda: server.get("/ready").status == 200, "the fake worker is known")
    yield server
    server.stop()
    assert "Traceback" not in server.log.read_text(), server.log.read_text()


@pytest.fixture(scope="session")
def other(api_redis, fake_worker, directory) -> Iterator[ApiServer]:
    """Another one that serves the same jobs."""
    server = ApiServer(api_redis.url, directory, ping_s=0.3)
    yield server
    server.kill()
    assert "Traceback" not in server.log.read_text(), server.log.read_text()


@pytest.fixture(scope="session")
def frames() -> Callable[[bytes], list[tuple[int | None, Any]]]:
    return parse_frames


@pytest.fixture(scope="session")
def vector_workers(_shared_redis) -> Iterator[dict[str, FakeWorker]]:
    """A model of each task, on a Redis of their own."""
    with tempfile.TemporaryDirectory(prefix="tr-") as name:
        server = type(_shared_redis)(Path(name))
        server.start()
        workers = {m: FakeWorker(server.url, model=m, task=task) for m, task in TASKS.items()}
        for worker in workers.values():
            worker.start()
        yield workers
        for worker in workers.values():
            worker.stop()
        server.stop()


@pytest.fixture(scope="session")
def vector_api(vector_workers, directory, wait) -> Iterator[ApiServer]:
    """A server for these."""
    server = ApiServer(vector_workers["m/embed"].url, directory, ping_s=0.3)
    wait(lambda: len(server.get("/v1/models").json["data"]) == 3, "all models are known")
    yield server
    server.kill()
    assert "Traceback" not in server.log.read_text(), server.log.read_text()


@pytest.fixture
def worker(redis_url: str) -> Iterator[FakeWorker]:
    """The fake worker of one test."""
    worker = FakeWorker(redis_url)
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture
async def app(redis_url: str, worker: FakeWorker) -> AsyncIterator[BatchApp]:
    """An API process of one test, in this process, that does its chores."""
    async with process(redis_url) as app:
        app.work()
        yield app
