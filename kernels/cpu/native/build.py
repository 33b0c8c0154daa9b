"""Compiles the C++ beside this file into a shared library, once per machine, and caches it.

The cache is keyed by all that decides what comes out: the sources, the command, the compiler's
version and the processor's features. Knows nothing of what the library does.
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kernels.cpu.native.instructions import OF_THIS_MACHINE, Instructions, features, machine

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
COMPILERS = ("g++", "c++", "clang++")
_FORMAT = re.compile(r"^constexpr Format k(\w+) =", re.MULTILINE)
_KIND = re.compile(r"DO\(\d+, (\w+)\)")  # of TR_FORMATS
_FLAGS = (
    *("-std=c++20", "-O3", "-fPIC", "-fopenmp"),
    *("-fno-math-errno", "-fno-trapping-math"),
    "-ffp-contract=off",  # so that a row's bits do not depend on how many rows a kernel takes
    "-w",  # GCC 12 warns of its own AVX-512 header
)
_TIMEOUT_S = 600


class BuildError(Exception):
    """Why there is no library, in one sentence."""


class Unit(NamedTuple):
    """A file to compile and what is defined for it."""

    source: Path
    defines: tuple[str, ...] = ()


def build(
    cache: Path,
    compilers: Sequence[str] = COMPILERS,
    instructions: Instructions = OF_THIS_MACHINE,
    formats: Sequence[str] = (),
) -> Path:
    """The library's path below `cache`, compiled by the first of `compilers` on PATH if need be.

    `instructions` and `formats`, which leaves all others out, are for tests and measurements.
    Processes that build at once wait for one of them. Raises BuildError if there is no compiler or
    it fails.
    """
    compiler = _find(compilers)
    command = [compiler, *_FLAGS, *instructions.flags, *_table(formats)]
    target = cache / f"{_key(command)}.so"
    if target.exists():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(cache / "lock"):
            if not target.exists():
                _compile(command, formats, target)
    except OSError as error:
        raise BuildError(f"{cache} cannot be written: {error.strerror or error}") from error
    return target


def _table(formats: Sequence[str]) -> list[str]:
    """What makes the chosen formats the only ones that there are."""
    if not formats:
        return []
    kinds = _KIND.finditer((SOURCES / "blocks.h").read_text())
    chosen = " ".join(kind[0] for kind in kinds if kind[1] in formats)
    return [f"-DTR_FORMATS(DO)={chosen}"]


def _units(chosen: Sequence[str]) -> list[Unit]:
    """product.cpp once for each format, so that they compile side by side."""
    names = _FORMAT.findall((SOURCES / "blocks.h").read_text())
    always = [name for name in names if name.startswith("HQQ")]  # hqq.cpp calls their kernels
    formats = [name for name in names if not chosen or name in chosen or name in always]
    plain = [Unit(path) for path in sorted(SOURCES.glob("*.cpp")) if path.name != "product.cpp"]
    return [Unit(SOURCES / "product.cpp", (f"-DTR_FORMAT={name}",)) for name in formats] + plain


def _find(compilers: Sequence[str]) -> str:
    for name in compilers:
        if path := shutil.which(name):
            return path
    raise BuildError(f"there is no C++ compiler ({', '.join(compilers)}) on PATH")


def _key(command: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.[ch]*")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    digest.update(" ".join(command).encode())
    digest.update(_run([command[0], "--version"]).encode())
    digest.update(_cpu_features().encode())
    return digest.hexdigest()[:24]


def _cpu_features() -> str:
    return " ".join([machine(), *sorted(features())])


def _compile(command: Sequence[str], formats: Sequence[str], target: Path) -> None:
    """Into a folder beside `target`, then renamed: nobody sees half a library."""
    log.info("building the CPU kernels with %s, once on this machine", command[0])
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:

        def compile_unit(item: tuple[int, Unit]) -> str:
            number, unit = item
            output = f"{directory}/{number}.o"
            _run([*command, *unit.defines, "-c", str(unit.source), "-o", output])
            return output

        with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
            objects = list(threads.map(compile_unit, enumerate(_units(formats))))
        library = f"{directory}/library.so"
        _run([*command, "-shared", *objects, "-o", library])
        os.replace(library, target)
    log.info("the CPU kernels are built, in %.0f s", time.monotonic() - start)


def _run(command: Sequence[str]) -> str:
    """The command's output. Raises BuildError with its first complaint."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except subprocess.CalledProcessError as error:
        complaints = [line for line in error.stderr.splitlines() if "error" in line]
        reason = (complaints or error.stderr.splitlines() or ["without a word"])[0]
        raise BuildError(f"{command[0]} failed: {reason}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} failed: {error}") from error
    return done.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
