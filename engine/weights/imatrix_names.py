"""Which entry of an importance matrix is about which weight of a model. Torch-free; knows names.

An entry is about the input of a weight, so projections of one input share theirs: it does not
matter which of them a file has in one tensor.
"""

import re
from collections.abc import Mapping

import numpy as np

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.weights.family import gguf_names
from engine.weights.imatrix import Entries, Floats
from engine.weights.names import hf_name

Shapes = Mapping[str, tuple[int, ...]]

_STACKED = re.compile(r"(?P<stem>blk\.\d+\.ffn_(?:gate|up|down))_exps\.weight")
_STACKED_HF = re.compile(r"(?P<stem>.*\.experts)\.(?P<part>gate_up_proj|down_proj)")
_SAME_INPUT = (
    (re.compile(r"\.block_sparse_moe\."), ".mlp."),
    (re.compile(r"\.self_attn\.(q|k|v)_proj\."), ".self_attn.qkv_proj."),
    (re.compile(r"\.(gate_proj|up_proj|w1|w3)\."), ".gate_up_proj."),
    (re.compile(r"\.w2\."), ".down_proj."),
)


def importance_of_weights(
    entries: Entries, path: str, config: ModelConfig, shapes: Shapes
) -> dict[str, Floats]:
    """For each weight that there is an entry for: [columns], or [experts, columns] if stacked.

    `shapes` are those of all tensors of the model, by Hugging Face name. Raises LoadError, naming
    `path` and an entry, for a file that was made for another model.
    """
    names = gguf_names(config.architecture)
    by_input: dict[str, Floats] = {}
    for name, values in _apart(entries, config.num_experts).items():
        by_input.setdefault(_input(hf_name(name, names)), values)
    inputs = {name: _inputs(name, shape) for name, shape in shapes.items()}
    _check_known(by_input, inputs, path)
    found = {
        name: _joined(by_input, keys, shapes[name][-1], path)
        for name, keys in inputs.items()
        if len(shapes[name]) > 1 and any(key in by_input for key in keys)
    }
    if not found:
        raise LoadError(f"the imatrix {path} has no entry for a weight of this model.")
    return found


def _apart(entries: Entries, num_experts: int) -> dict[str, Floats]:
    """The same, with each expert's part of a stacked entry by itself, as files of old have it."""
    parts: dict[str, Floats] = {}
    for name, values in entries.items():
        match = _STACKED.fullmatch(name)
        if match is None or not num_experts or len(values) % num_experts:
            parts[name] = values
            continue
        for expert, part in enumerate(values.reshape(num_experts, -1)):
            parts[f"{match['stem']}.{expert}.weight"] = part
    return parts


def _input(name: str) -> str:
    for pattern, plain in _SAME_INPUT:
        name = pattern.sub(plain, name)
    return name


def _inputs(name: str, shape: tuple[int, ...]) -> list[str]:
    """One, or that of each expert of a stacked tensor."""
    match = _STACKED_HF.fullmatch(name)
    if match is None or len(shape) != 3:
        return [_input(name)]
    return [_input(f"{match['stem']}.{e}.{match['part']}.weight") for e in range(shape[0])]


def _check_known(by_input: Entries, inputs: Mapping[str, list[str]], path: str) -> None:
    """Root tensors may be missing: a tied output has an entry and no tensor."""
    known = {key for keys in inputs.values() for key in keys}
    for key in by_input:
        if key not in known and key.startswith(("model.layers.", "blk.")):
            raise LoadError(
                f"the imatrix {path} was made for another model: it has an entry for {key}, which "
                "this one has not."
            )


def _joined(by_input: Entries, keys: list[str], num_columns: int, path: str) -> Floats:
    """An expert without an entry saw no token: to it, all columns are alike."""
    rows = [by_input.get(key, np.ones(num_columns, np.float32)) for key in keys]
    for key, row in zip(keys, rows, strict=True):
        if len(row) != num_columns:
            raise LoadError(
                f"the imatrix {path} was made for another model: its entry for {key} has "
                f"{len(row)} columns, and this one's has {num_columns}."
            )
    return rows[0] if len(rows) == 1 else np.stack(rows)
