"""Every kernel compiles for GPUs that are not here, spills nothing, and fits in shared memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compile_for_gpu.py")


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_kernels_compile_for_sm_80_and_sm_90(tmp_path):
    pytest.importorskip("triton")
    environ = dict(os.environ, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    environ["PYTHONPATH"] = str(SCRIPT.parents[2])
    command = [sys.executable, str(SCRIPT), "80", "90"]
    result = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("sm_80") == result.stdout.count("sm_90") > 30
