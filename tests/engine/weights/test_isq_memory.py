"""The memory that quantising at load takes at its peak: the quantised model and one tensor."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.bench import load as bench

ROOT = Path(__file__).parents[3]
# What threads' heaps and buffers of a few rows take, whatever the model's size.
ALLOWANCE_BYTES = 80 << 20


def peak(path, isq):
    """What a fresh process took at most beyond its imports, and the size of the model in it."""
    command = [sys.executable, "tests/bench/load.py", "--load", str(path)]
    settings = ["--dtype", "auto", "--isq", isq]
    made = subprocess.run(
        [*command, *settings], cwd=ROOT, capture_output=True, check=True, text=True
    )
    figures = json.loads(made.stdout)
    return figures["peak"] * figures["size"], figures["size"]


def check(path, isq, source_bytes):
    """Float32, as it would be without, is twice the source."""
    tensor_bytes = bench.VOCAB * bench.HIDDEN * 2
    most, size = peak(path, isq)
    assert size < 0.6 * source_bytes
    assert most < size + tensor_bytes + ALLOWANCE_BYTES < 1.5 * source_bytes


def test_a_model_of_160_mb_never_is_there_in_floats(tmp_path, monkeypatch):
    for name, value in {
        "HIDDEN": 1024,
        "INTERMEDIATE": 4096,
        "VOCAB": 8000,
        "HEAD_DIM": 32,
    }.items():
        monkeypatch.setattr(bench, name, value)
    path = bench.write_safetensors(tmp_path / "model", 4, torch.bfloat16, 1)
    check(path, "Q8_0", (path / "model.safetensors").stat().st_size)


@pytest.mark.nightly
@pytest.mark.parametrize("isq", ["Q4K", "Q8_0"])
def test_a_model_of_500_mb_takes_one_tensor_more_than_its_quantised_size(isq, tmp_path):
    path = bench.write_safetensors(tmp_path / "model", 3, torch.bfloat16, 1)
    check(path, isq, (path / "model.safetensors").stat().st_size)
