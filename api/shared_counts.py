"""Where the API processes of one server keep their counts for each other. Knows no count.

The directory's name is in a variable, for prometheus_client reads it there. It is removed with the
server; one that a killed server left is removed when the next one starts.
"""

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "tramontane-metrics-"
_LOCK = "lock"  # held by the server and its processes as long as one of them lives


def directory() -> str:
    """The directory of this process's server; empty if it has none."""
    return os.environ.get(VARIABLE, "")


def share() -> None:
    """Make the directory, once, before the first process starts; forget who has died since.

    Called in the process that the others come from. A directory that the operator names stays his.
    """
    path = directory()
    if path and not _is_foreign(Path(path)):
        _forget_dead(Path(path))
        return
    base = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
    _sweep(base)
    path = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base)
    # The number stays open, and so locked, until the last process that has it ends.
    fcntl.flock(os.open(Path(path) / _LOCK, os.O_CREAT | os.O_RDWR, 0o600), fcntl.LOCK_EX)
    os.environ[VARIABLE] = path
    atexit.register(_remove, path, os.getpid())


def _is_foreign(path: Path) -> bool:
    """True for one that came with the environment of another server, such as our predecessor."""
    return path.name.startswith(PREFIX) and not path.name.startswith(f"{PREFIX}{os.getpid()}-")


def _forget_dead(path: Path) -> None:
    """What a process that died was doing is not being done any more; what it did was done."""
    for file in path.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not Path(f"/proc/{pid}").exists():
            file.unlink(missing_ok=True)


def _sweep(base: Path) -> None:
    for lock in base.glob(f"{PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError), lock.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


def _remove(path: str, pid: int) -> None:
    if os.getpid() == pid:  # a child that was forked runs this too
        shutil.rmtree(path, ignore_errors=True)
