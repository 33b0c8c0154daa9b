"""Matrices packed as GPTQ, AWQ, FP8 and compressed-tensors define it, in plain numpy, bit by bit.

Each function takes weights [out, in] and gives the tensors of a checkpoint by the last words of
their names, and the float32 weights that they stand for. Shares no code with the engine.
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from engine.weights.files import ModelFiles, ModelRef, resolve
from tests.engine import tiny_llama

Array = NDArray[Any]
Packed = tuple[dict[str, torch.Tensor], Array]

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def bit_words(codes: Array, bits: int) -> Array:
    """Codes [n, m] to int32 words [ceil(n * bits / 32), m]: one run of bits down each column."""
    run = (codes.astype(np.uint32)[:, None] >> np.arange(bits, dtype=np.uint32)[:, None]) & 1
    run = run.reshape(-1, codes.shape[1])
    run = np.pad(run, ((0, -len(run) % 32), (0, 0))).reshape(-1, 32, codes.shape[1])
    words = (run << np.arange(32, dtype=np.uint32)[:, None]).sum(1, dtype=np.uint32)
    packed: Array = words.view(np.int32)
    return packed


def affine(weights: Array, bits: int, groups: Array, is_symmetric: bool) -> tuple[Array, ...]:
    """Codes [out, in], scales (float16) and zeros [out, G] for the group of each column [in]."""
    top = 2**bits - 1
    scales = np.empty((len(weights), groups.max() + 1), np.float16)
    zeros = np.empty(scales.shape, np.int64)
    for group in range(scales.shape[1]):
        part = weights[:, groups == group]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        if is_symmetric:
            high = np.maximum(-low, high)
            low = -high
        scales[:, group] = ((high - low) / top).astype(np.float16)
        zero = (top + 1) // 2 if is_symmetric else np.round(-low / scales[:, group])
        zeros[:, group] = np.clip(zero, 0, top)
    codes = np.round(weights / scales[:, groups].astype(np.float32)) + zeros[:, groups]
    return np.clip(codes, 0, top).astype(np.int64), scales, zeros


def floats(codes: Array, scales: Array, zeros: Array, groups: Array) -> Array:
    """The formula: (code - zero) * scale."""
    difference = (codes - zeros[:, groups]).astype(np.float32)
    return difference * scales.astype(np.float32)[:, groups]


def group_indices(num_columns: int, size: int) -> Array:
    """The group of each column in their order; size -1 is all of them."""
    return np.arange(num_columns) // (num_columns if size == -1 else size)


def tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def gptq(
    weights: Array,
    bits: int = 4,
    size: int = 32,
    *,
    layout: str = "gptq",
    is_symmetric: bool = False,
    order: Array | None = None,
    has_g_idx: bool = True,
) -> Packed:
    """`order` are the columns in the order in which they were quantised (desc_act)."""
    groups = group_indices(weights.shape[1], size)
    if order is not None:
        groups = groups[np.argsort(order)]
    codes, scales, zeros = affine(weights, bits, groups, is_symmetric)
    stored = (zeros - 1) % 2**bits if layout == "gptq" else zeros
    parts = {
        "qweight": tensor(bit_words(codes.T, bits)),
        "qzeros": tensor(bit_words(stored, bits).T),
        "scales": tensor(scales.T),
    }
    if has_g_idx:
        parts["g_idx"] = tensor(groups.astype(np.int32))
    return parts, floats(codes, scales, zeros, groups)


def awq(weights: Array, size: int = 32) -> Packed:
    groups = group_indices(weights.shape[1], size)
    codes, scales, zeros = affine(weights, 4, groups, False)

    def pack(rows: Array) -> torch.Tensor:  # [n, out] to [n, out / 8]
        words = np.zeros((len(rows), rows.shape[1] // 8), np.uint32)
        for column in range(words.shape[1]):
            for place, row in enumerate(_AWQ_ORDER):
                codes = rows[:, column * 8 + row].astype(np.uint32)
                words[:, column] |= codes << np.uint32(4 * place)
        return tensor(words.view(np.int32))

    parts = {"qweight": pack(codes.T), "qzeros": pack(zeros.T), "scales": tensor(scales.T)}
    return parts, floats(codes, scales, zeros, groups)


def e4m3_values() -> Array:
    """The number of each of the 256 codes, by the definition (OCP 8-bit floating point)."""
    codes = np.arange(256)
    exponents, mantissas = (codes >> 3) & 15, codes & 7
    sizes = np.where(
        exponents == 0, mantissas / 8 * 2.0**-6, (1 + mantissas / 8) * 2.0 ** (exponents - 7.0)
    )
    sizes[(codes & 127) == 127] = np.nan
    return np.where(codes < 128, sizes, -sizes).astype(np.float32)


def fp8(
    weights: Array,
    block: tuple[int, int] | None = None,
    scale: str = "weight_scale_inv",
    scale_dims: int = 2,
) -> Packed:
    """`block` None: one scale for the whole; (1, in): one a row. The nearest codes, by a search."""
    rows, columns = weights.shape
    height, width = block or (rows, columns)
    grid = np.arange(rows)[:, None] // height, np.arange(columns)[None] // width
    scales = np.zeros((grid[0].max() + 1, grid[1].max() + 1), np.float32)
    np.maximum.at(scales, np.broadcast_arrays(*grid), np.abs(weights))
    scales /= np.float32(448)
    values = e4m3_values()
    known = np.where(np.isnan(values), np.inf, values)
    codes = np.abs((weights / scales[grid])[..., None] - known).argmin(-1).astype(np.uint8)
    parts = {"weight": tensor(codes).view(torch.float8_e4m3fn), scale: tensor(scales)}
    if scale_dims < 2:
        parts[scale] = parts[scale].flatten() if scale_dims else parts[scale].reshape(())
    return parts, values[codes] * scales[grid]


def compressed_ints(
    weights: Array,
    bits: int,
    size: int,
    *,
    is_symmetric: bool = True,
    is_packed: bool = True,
    order: Array | None = None,
) -> Packed:
    """pack-quantized, or one integer a byte."""
    groups = group_indices(weights.shape[1], size)
    if order is not None:
        groups = groups[np.argsort(order)]
    codes, scales, zeros = affine(weights, bits, groups, is_symmetric)
    half = 2 ** (bits - 1)
    parts = {"weight_scale": tensor(scales)}
    if is_packed:
        parts["weight_packed"] = tensor(bit_words(codes.T, bits).T)
        parts["weight_shape"] = torch.tensor(weights.shape)
    else:
        parts["weight"] = tensor((codes - half).astype(np.int8))
    if not is_symmetric and is_packed:
        parts["weight_zero_point"] = tensor(bit_words(zeros, bits))
    elif not is_symmetric:
        parts["weight_zero_point"] = tensor((zeros - half).astype(np.int8))
    if order is not None:
        parts["weight_g_idx"] = tensor(groups.astype(np.int32))
    return parts, floats(codes, scales, zeros, groups)


def write_llama(
    directory: Path, tensors: dict[str, torch.Tensor], quantization: dict[str, Any]
) -> ModelFiles:
    """The configuration of a tiny Llama beside `tensors`, which need not be all of one."""
    files = tiny_llama.write(directory)
    path = directory / "config.json"
    config = {**msgspec.json.decode(path.read_bytes()), "quantization_config": quantization}
    path.write_bytes(msgspec.json.encode(config))
    tensors = {"model.norm.weight": torch.ones(tiny_llama.HIDDEN), **tensors}
    save_file(tensors, directory / "model.safetensors")
    return resolve(ModelRef(model=str(files.directory)))
