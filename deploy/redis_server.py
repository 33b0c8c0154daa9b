"""A private Redis: a real server process on a unix socket, with its data in a directory it owns.

Knows how to own a data directory and keep a server alive in it, not what is stored there.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO
from urllib.parse import quote

from deploy import children, redis_binary
from deploy.errors import StartError

_MAX_SOCKET_PATH_BYTES = 100  # sun_path holds 108, on macOS 104
_POLL_S = 0.01
_OWNER_GONE_S = 5.0  # a server whose parent was killed needs a moment to follow it


class EmbeddedRedis:
    """One server process and the data directory it owns. Start it from the main thread.

    The data directory is locked (flock) by us and by the server alike, so a server that outlives a
    killed parent keeps others off its files.
    """

    def __init__(self, data_dir: Path, *, binary: str = "", maxmemory: str = "512mb") -> None:
        self._dir = data_dir.absolute()
        self._binary = binary
        self._maxmemory = maxmemory
        self._lock: IO[str] | None = None
        self._socket: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For redis-py. Valid once started."""
        return f"unix://{quote(str(self._socket))}?db=0"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self, timeout_s: float = 30.0) -> None:
        """Own the data directory, start the server, wait until it answers.

        Raises StartError if the directory is taken, no server fits it, or the server gives up.
        """
        try:
            self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = self._take_lock()
        except OSError as error:
            raise StartError(f"cannot use the data directory {self._dir}: {error}") from error
        try:
            self._socket = self._choose_socket()
            self._spawn()
            self.wait_until_ready(timeout_s)
        except BaseException:
            self.stop()
            raise

    def restart(self) -> None:
        """Start the server again after it died, without waiting. Directory and URL stay."""
        assert self.pid is None
        self._spawn()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the server, which writes its file out first, and give the directory back."""
        if self._process is not None:
            children.stop(self._process, timeout_s)
            self._process = None
        if self._socket is not None and self._socket.parent != self._dir:
            shutil.rmtree(self._socket.parent, ignore_errors=True)
        self._socket = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> IO[str]:
        lock = (self._dir / "lock").open("a+")
        deadline = time.monotonic() + _OWNER_GONE_S
        while not _try_lock(lock):
            owner = _read_pid(lock)
            if time.monotonic() > deadline or _is_alive(owner):
                lock.close()
                raise StartError(
                    f"the data directory {self._dir} is in use by process {owner}: stop that one, "
                    "or set TRAMONTANE_DATA_DIR to another directory"
                )
            time.sleep(_POLL_S)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def _choose_socket(self) -> Path:
        path = self._dir / "redis.sock"
        if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
            path = Path(tempfile.mkdtemp(prefix="tramontane-", dir="/tmp")) / "redis.sock"
        return path

    def _spawn(self) -> None:
        assert self._socket is not None
        assert self._lock is not None
        note = self._dir / "server.json"
        server = redis_binary.choose(self._binary, redis_binary.read_writer(note))
        redis_binary.record_writer(note, server)
        self._socket.unlink(missing_ok=True)  # a killed server leaves it behind
        self._process = children.spawn(
            self._command(server.path),
            death_signal=signal.SIGTERM,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(self._lock.fileno(),),
        )

    def _command(self, binary: str) -> list[str]:
        return [
            binary,
            *("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--dir", str(self._dir), "--logfile", str(self._dir / "redis.log")),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--aof-load-truncated", "yes", "--daemonize", "no"),
            *("--maxmemory", self._maxmemory, "--maxmemory-policy", "noeviction"),
            *("--client-output-buffer-limit", "pubsub", "64mb", "16mb", "30"),
        ]

    def wait_until_ready(self, timeout_s: float = 30.0) -> None:
        """`timeout_s` counts silence only: a server that loads a large file says so, and may.

        Raises StartError if it ends, stays silent or cannot serve.
        """
        deadline = time.monotonic() + timeout_s
        while not (reply := self._ping()).startswith(b"+PONG"):
            assert self._process is not None
            if self._process.poll() is not None:
                raise StartError(f"the Redis server stopped at its start: {self._last_words()}")
            if reply.startswith(b"-LOADING"):
                deadline = time.monotonic() + timeout_s
            elif reply:
                raise StartError(
                    f"the Redis server answers {reply.decode(errors='replace').strip()}"
                )
            elif time.monotonic() > deadline:
                raise StartError(f"the Redis server does not answer: {self._last_words()}")
            time.sleep(_POLL_S)

    def _ping(self) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            try:
                connection.connect(str(self._socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(200)
            except OSError:
                return b""

    def _last_words(self) -> str:
        log = self._dir / "redis.log"
        with contextlib.suppress(OSError):
            lines = log.read_text(errors="replace").strip().splitlines()
            if lines:
                return f"{lines[-1]} (see {log})"
        return f"it left nothing in {log}"


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(lock: IO[str]) -> int:
    lock.seek(0)
    text = lock.read(20)
    return int(text) if text.isdigit() else 0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0
