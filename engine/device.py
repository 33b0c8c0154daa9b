"""Which device and number format an engine uses. Knows names and what this machine has."""

from pathlib import Path

import torch

from engine.config import EngineConfig, ModelConfig
from engine.errors import LoadError
from kernels.packing import has_kernels, keep_kernels_in

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` is CUDA where there is one. One of CUDA has its number.

    Raises LoadError for one that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise LoadError(f"{name!r} is no device; use auto, cpu, cuda or cuda:N.") from error
    if device.type not in ("cpu", "cuda"):
        raise LoadError(f"The device {name!r} is not supported; use auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LoadError(
            f"The device {name!r} is asked for, but PyTorch sees "
            f"{torch.cuda.device_count()} CUDA devices."
        )
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def prepare_kernels(config: EngineConfig, device: torch.device) -> None:
    """Say where compiled kernels are kept, and on which GPU this thread launches kernels.

    Raises LoadError if 8-bit inputs are demanded of a CPU that has no kernels for them.
    """
    if config.kernel_cache:
        keep_kernels_in(Path(config.kernel_cache))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # Triton launches on the current one, wherever tensors are
    if config.cpu_activations == "int8" and device.type == "cpu" and not has_kernels():
        raise LoadError(
            "--cpu-activations int8 needs the CPU kernels, which this machine could not build, as "
            "a warning says; install g++, or ask for auto or float."
        )


def choose_cache_dtype(
    config: EngineConfig, dtype: torch.dtype, device: torch.device, *, is_rounded: bool
) -> torch.dtype:
    """The format of keys and values; `is_rounded`: the model's products round their inputs.

    `auto` is float16, as llama.cpp has it, where inputs are rounded to less than that anyway.
    Raises LoadError for one that the kernels do not take beside `dtype`.
    """
    can_halve = device.type == "cpu" and dtype == torch.float32
    name = config.kv_cache_dtype
    if name == "auto":
        return torch.float16 if can_halve and is_rounded and has_kernels() else dtype
    if name == "fp8" and device.type == "cuda" and dtype.itemsize == 2:
        return torch.float8_e4m3fn
    if DTYPES.get(name) != dtype and not (can_halve and name == "float16"):
        raise LoadError(
            f"--kv-cache-dtype {name} is not for a model in {str(dtype).removeprefix('torch.')} on "
            f"{device.type}; ask for auto."
        )
    return DTYPES[name]


def choose_dtype(config: EngineConfig, model: ModelConfig, device: torch.device) -> torch.dtype:
    """The format of weights and activations; `auto`: float32 on CPU, elsewhere the files'."""
    name = config.dtype
    if name == "auto":
        name = "float32" if device.type == "cpu" else model.dtype
    if name not in DTYPES:
        raise LoadError(f"The dtype {name!r} is not supported; use auto, {', '.join(DTYPES)}.")
    return DTYPES[name]
