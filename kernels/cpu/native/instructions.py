"""The paths of the C++ library: what to tell the compiler for each, and who can run it.

vectors.h chooses the path by what the compiler may use. Knows nothing of building.
"""

import platform
from pathlib import Path
from typing import NamedTuple

_CPUINFO = Path("/proc/cpuinfo")
_X86 = "x86_64"
_ARM = "aarch64"


class Instructions(NamedTuple):
    """One path. `needs` are features as /proc/cpuinfo spells them."""

    name: str  # as the library says it
    flags: tuple[str, ...]
    machine: str = ""  # empty: any
    needs: frozenset[str] = frozenset()

    @property
    def can_run(self) -> bool:
        """Whether this machine has them."""
        return self.machine in ("", machine()) and self.needs <= features()


def machine() -> str:
    """The processor's family: x86_64, aarch64 or what else the system calls it."""
    name = platform.machine().lower()
    return {"amd64": _X86, "arm64": _ARM}.get(name, name)


def cpu_flag() -> str:
    """What makes the compiler use all that this processor has."""
    return "-march=native" if machine() == _X86 else "-mcpu=native"


def features() -> frozenset[str]:
    """What this processor can do, as /proc/cpuinfo spells it; empty where there is no such file."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    found = [line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))]
    return frozenset(" ".join(found).split())


_V3 = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

AVX512_VNNI = Instructions(
    "AVX-512 VNNI", ("-march=x86-64-v4", "-mavx512vnni"), _X86, _V4 | {"avx512_vnni"}
)
AVX2_VNNI = Instructions("AVX2 VNNI", ("-march=x86-64-v3", "-mavxvnni"), _X86, _V3 | {"avx_vnni"})
AVX2 = Instructions("AVX2", ("-march=x86-64-v3",), _X86, _V3)
NEON_I8MM = Instructions(
    *("NEON i8mm", ("-march=armv8.2-a+dotprod+i8mm",), _ARM, frozenset({"asimddp", "i8mm"}))
)
NEON_DOTPROD = Instructions(
    "NEON dotprod", ("-march=armv8.2-a+dotprod",), _ARM, frozenset({"asimddp"})
)
NEON = Instructions("NEON", ("-march=armv8-a",), _ARM, frozenset({"asimd"}))
PLAIN = Instructions("plain loops", (cpu_flag(), "-DTR_PORTABLE"))

PATHS = (AVX512_VNNI, AVX2_VNNI, AVX2, NEON_I8MM, NEON_DOTPROD, NEON, PLAIN)
OF_THIS_MACHINE = Instructions("the best", (cpu_flag(),))
