"""Thousands of damaged files: each is read or is a LoadError, quickly and in little memory."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("damage.py")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("form", ["gguf", "ggml", "safetensors", "gptq", "fp8", "compressed"])
def test_a_damaged_file_is_read_or_refused(form, tmp_path):
    """In a process of its own, whose memory is bounded; its first failure is its output."""
    command = [sys.executable, str(SCRIPT), form, str(tmp_path), "700"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    num_read, num_refused = map(int, run.stdout.split())
    assert num_read + num_refused == 700
    assert num_read > 20, "damage that leaves nothing to read tests only the first check"
    assert num_refused > 200
