"""Writes importance matrices as llama.cpp's llama-imatrix does, in both of its formats."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

Means = Mapping[str, np.ndarray]  # mean squares, [columns] or [experts, columns]


def write_legacy(path: Path, means: Means, calls: int = 3) -> Path:
    """The .dat format, which has means times the number of calls."""
    data = struct.pack("<i", len(means))
    for name, values in means.items():
        flat = np.asarray(values, np.float32).reshape(-1)
        encoded = name.encode()
        data += struct.pack("<i", len(encoded)) + encoded
        data += struct.pack("<ii", calls, len(flat)) + (flat * calls).astype("<f4").tobytes()
    dataset = b"wiki.train.raw"
    path.write_bytes(data + struct.pack("<ii", calls, len(dataset)) + dataset)
    return path


def write_gguf(
    path: Path, means: Means, counts: Mapping[str, Sequence[float]] | None = None
) -> Path:
    """The GGUF format, which has sums, and how many tokens each matrix saw (4 if not told)."""
    writer = GGUFWriter(path, "none")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["wiki.train.raw"])
    writer.add_uint32("imatrix.chunk_count", 2)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in means.items():
        rows = np.atleast_2d(np.asarray(values, np.float32))
        own = np.array((counts or {}).get(name, [4.0] * len(rows)), np.float32).reshape(-1, 1)
        sums = rows * own
        writer.add_tensor(f"{name}.in_sum2", sums if len(rows) > 1 else sums[0])
        writer.add_tensor(f"{name}.counts", own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
