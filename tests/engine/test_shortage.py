"""What counts as memory that ran out: what torch and numpy really raise, and nothing else."""

import numpy as np
import pytest
import torch

from engine.config import EngineConfig
from engine.engine import load_engine
from engine.errors import LoadError, OutOfMemory
from engine.shortage import enough_memory, is_shortage, no_memory
from tests.engine import tiny_llama

CPU = torch.device("cpu")
HUGE = 1 << 56


def error_of(make) -> BaseException:
    try:
        make()
    except (RuntimeError, MemoryError) as error:
        return error
    raise AssertionError("that had to fail")


def raises(message):
    raise RuntimeError(message)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(HUGE, dtype=torch.uint8),
        lambda: np.empty(HUGE, np.uint8),
        lambda: bytearray(HUGE),
        lambda: raises("CUDA error: out of memory"),
        lambda: raises(
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
        ),
        lambda: raises("Triton Error [CUDA]: out of memory"),
        lambda: raises("std::bad_alloc"),  # topk's, beside a tensor that was there
        lambda: raises("unable to mmap 8 bytes from file </x>: Cannot allocate memory (12)"),
    ],
    ids=["torch", "numpy", "python", "driver", "cublas", "triton", "C++", "mmap"],
)
def test_memory_that_ran_out_is_known(make):
    assert is_shortage(error_of(make))


def test_what_torch_raises_on_a_gpu_is_known():
    assert is_shortage(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)",
    ],
)
def test_other_errors_are_no_shortage(message):
    assert not is_shortage(RuntimeError(message))
    assert not is_shortage(ValueError("out of memory"))


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemory("Nothing fits.")], ids=repr)
def test_a_load_that_does_not_fit_says_what_to_do(error):
    with (
        pytest.raises(
            LoadError,
            match=r"^The model does not fit the memory of cpu \(.* GB free\); buy more\.$",
        ),
        enough_memory("The model", CPU, "buy more"),
    ):
        raise error


def test_other_errors_pass_a_load_as_they_are():
    with pytest.raises(RuntimeError, match="illegal"), enough_memory("x", CPU, "y"):
        raise RuntimeError("an illegal memory access was encountered")


def test_where_nothing_fits_the_sentence_names_the_settings():
    assert "lower --pa-gpu-mem-usage" in no_memory(CPU)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (
            "load_model",
            "The model does not fit .* smaller model, or quantise it with --isq",
        ),
        ("allocate", "The KV cache does not fit .* lower --pa-gpu-mem or --pa-gpu-mem-usage"),
    ],
)
def test_a_start_says_what_of_it_does_not_fit(tmp_path, monkeypatch, part, sentence):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(f"engine.engine.{part}", fail)
    with pytest.raises(LoadError, match=sentence):
        load_engine(tiny_llama.write(tmp_path), EngineConfig(device="cpu"))
