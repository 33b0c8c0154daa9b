"""What a compiled kernel is made of, read from its machine code by the tools of Triton."""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import triton

_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
_LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")
_LOCAL = ("LDL", "STL")


class Instruction(NamedTuple):
    """One line of machine code."""

    address: int
    name: str
    rest: str


class Cubin(NamedTuple):
    """Registers of a thread, and the instructions in order."""

    num_registers: int
    instructions: Sequence[Instruction]

    def count(self, *names: str) -> int:
        """Instructions whose names begin with one of these."""
        return sum(line.name.startswith(names) for line in self.instructions)

    @property
    def num_spills(self) -> int:
        """Instructions that move registers to local memory or back."""
        return self.count(*_LOCAL)

    def longest_loop(self) -> int:
        """Instructions of the longest loop, 0 if there is none."""
        lengths = [
            (line.address - target) // 16 + 1
            for line in self.instructions
            if line.name.startswith("BRA") and (target := _target(line)) < line.address
        ]
        return max(lengths, default=0)


def read_cubin(code: bytes) -> Cubin:
    """Disassemble. Instructions are 16 bytes each from sm_70 on."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        text = _run("cuobjdump", "-sass", file.name)
    registers = re.findall(r"REG:(\d+)", usage)
    matches = filter(None, map(_LINE.match, text.splitlines()))
    lines = [Instruction(int(match[1], 16), match[2], match[3]) for match in matches]
    return Cubin(int(registers[0]), lines)


def _target(line: Instruction) -> int:
    found = re.search(r"0x([0-9a-f]+)", line.rest)
    return int(found[1], 16) if found else line.address


def _run(tool: str, *arguments: str) -> str:
    command = [str(_TOOLS / tool), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return result.stdout + result.stderr
