"""Every kernel compiles for GPUs that are not here, spills nothing, and fits in shared memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compile_for_gpu.py")


def run_compiling(*arguments, cache):
    pytest.importorskip("triton")
    environ = dict(os.environ, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(cache))
    environ["PYTHONPATH"] = str(SCRIPT.parents[2])
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("arch", ["80", "86", "89", "90"])
def test_kernels_of_every_format_compile(arch, tmp_path):
    result = run_compiling(str(SCRIPT), arch, "--all", cache=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(f"sm_{arch}") > 200


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_kernels_compile_as_engines_launch_them(tmp_path):
    script = str(SCRIPT.with_name("compile_engine.py"))
    result = run_compiling(script, cache=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("sm_90") > 50


# A tile that no GPU has the registers for, nor an RTX 3090 the shared memory.
TOO_LARGE = """
from tests.kernels.compile_for_gpu import compiled, recorded
job = next(job for job in recorded([86], has_all=False) if "_packed_linear" in job.name)
job = job._replace(constants={**job.constants, "ROWS": 256, "INPUTS": 128})
print(*compiled(job).faults, sep=chr(10))
"""


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_tile_that_is_too_large_is_bad(tmp_path):
    result = run_compiling("-c", TOO_LARGE, cache=tmp_path)
    assert "instructions spill" in result.stdout, result.stderr
    assert "bytes shared" in result.stdout
