"""Runs the kernels compiled where there is a GPU, and in the interpreter where there is none."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kernels import interpreter

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    interpreter.use_interpreter()


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where launchers get their tensors."""
    return DEVICE


@pytest.fixture(scope="session")
def launcher() -> Callable[..., Callable[..., Any]]:
    """`launcher(file, name=file)`: a Triton launcher whose fresh memory is filled with NaN."""
    pytest.importorskip("triton")
    if interpreter.is_interpreting():
        interpreter.repair_bfloat16()

    def find(file: str, name: str | None = None) -> Callable[..., Any]:
        launch = getattr(importlib.import_module(f"kernels.{file}"), name or file)
        return lambda *args: _poisoned(launch, *args)

    return find


def _poisoned(launch: Callable[..., Any], *args: Any) -> Any:
    """Deterministic mode fills what `torch.empty` returns; it holds for the launch alone."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        return launch(*args)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=["f32", "f16", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen: torch.dtype = request.param
    return chosen


@pytest.fixture
def tolerance(dtype: torch.dtype) -> dict[str, float]:
    """Of a result rounded once or twice to `dtype`, for torch.testing.assert_close."""
    step = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    return {"rtol": 2 * step, "atol": 2 * step}
