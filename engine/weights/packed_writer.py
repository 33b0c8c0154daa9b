"""Writes a safetensors checkpoint packed: a directory that loads without quantising again.

Its matrices are in rows of blocks (prequantised/tramontane.py reads them), all else is as it was.
Of the model, one matrix is in memory at a time. Knows no family: a matrix is told by its name.
"""

import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.errors import LoadError
from engine.json_file import read_json
from engine.quant.memory_form import memory_form
from engine.quant.registry import Format, fitting_format, step_up
from engine.quant.row_format import RowFormat
from engine.quant.stored_rows import ROWS_BY_KIND, StoredRows
from engine.weights.checkpoint import Checkpoint, open_checkpoint
from engine.weights.files import ModelFiles
from engine.weights.imatrix import read_imatrix
from engine.weights.imatrix_names import importance_of_weights
from engine.weights.prequantised.config import read_method
from engine.weights.progress import Progress
from engine.weights.quantised import Change, QuantisedCheckpoint
from engine.weights.safetensors_writer import MAX_SHARD_BYTES, OutTensor, write_safetensors
from engine.weights.selection import companions

log = logging.getLogger(__name__)

# Names are those of the files, which may have more than a language model.
_ENDS = re.compile(r"(embed_tokens|lm_head)\.weight$")
_MATRIX = re.compile(r"\.weight$|\.experts\.(gate_up_proj|down_proj)$")
# A router is small and decides much; an image encoder is not served.
_NOT_PACKED = re.compile(r"\.gate\.weight$|vision_tower|multi_modal_projector")
_NUMBER = re.compile(r"\d+")
_OLD_KEYS = ("quantization_config", "compression_config")


class _Planned(NamedTuple):
    name: str
    shape: tuple[int, ...]  # of the weights
    rows: StoredRows | None
    change: Change | None = None
    wanted: Format | None = None

    @property
    def takes_imatrix(self) -> bool:
        format = None if self.change is None else self.change.format
        return isinstance(format, RowFormat) and format.takes_imatrix

    @property
    def kind(self) -> str:
        return "" if self.rows is None else self.rows.name


def write_packed(
    files: ModelFiles,
    form: Format,
    directory: Path,
    progress: Progress | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    imatrix: str = "",
) -> dict[str, str]:
    """Write the model of `files` to `directory`, which is made. Returns each tensor's kind of rows.

    Token embeddings and output are packed a step up; kinds are empty where a tensor is not packed.
    `imatrix` is the path of an importance matrix. Until it is whole the directory has another name
    beside it. Raises LoadError for files without config.json, for weights that cannot be packed,
    for an imatrix that does not fit, and for a `directory` that is there or cannot be.
    """
    if files.kind != "plain":
        raise LoadError(
            f"{files.weights[0]} has no config.json, which the files of a directory need; write a "
            "GGUF file (-o NAME.gguf), or name a model in safetensors."
        )
    checkpoint = open_checkpoint(files)
    _warn_of_second_packing(files)
    plan = [_plan(name, checkpoint, form) for name in _names(checkpoint)]
    if not any(planned.kind for planned in plan):
        raise LoadError(
            f"{files.name} has no matrix that {form.name} can be written of; choose another type."
        )
    _warn_of_fallbacks(plan)
    if imatrix:
        plan = _weighed(plan, imatrix, checkpoint)
    with _making(directory) as partial:
        _copy_companions(files, partial)
        _write_config(files, plan, partial)
        tensors = [_out(planned, checkpoint) for planned in plan]
        write_safetensors(partial, tensors, progress, max_shard_bytes)
    return {planned.name: planned.kind for planned in plan}


@contextmanager
def _making(directory: Path) -> Iterator[Path]:
    """The directory under its name of before it is whole; gone if it does not become so."""
    partial = directory.with_name(f"{directory.name}.partial")
    for path in (directory, partial):
        if path.exists():
            raise LoadError(f"{path} exists; remove it, or choose another name with -o.")
    try:
        partial.mkdir()
        yield partial
        partial.rename(directory)
    except OSError as error:
        raise LoadError(f"{directory} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _names(checkpoint: Checkpoint) -> list[str]:
    """Layer by layer; without what a model does not use: a tied output and old frequencies."""
    skipped = ("lm_head.weight",) * checkpoint.config.tie_word_embeddings
    names = [n for n in checkpoint.names() if not n.endswith((*skipped, "rotary_emb.inv_freq"))]
    return sorted(names, key=_by_number)


def _by_number(name: str) -> tuple[list[int], str]:
    return [int(number) for number in _NUMBER.findall(name)], name


def _plan(name: str, checkpoint: Checkpoint, form: Format) -> _Planned:
    shape = checkpoint.shape(name)
    if len(shape) < 2 or not _MATRIX.search(name) or _NOT_PACKED.search(name):
        return _Planned(name, shape, None)
    wanted = step_up(form) if _ENDS.search(name) else form
    fitting = fitting_format(wanted, shape)
    memory = None if fitting is None else memory_form(fitting, *shape[-2:])
    rows = None if memory is None else ROWS_BY_KIND.get(memory.kind)
    change = None if fitting is None or rows is None else Change(fitting)
    return _Planned(name, shape, rows, change, wanted)


def _weighed(plan: Sequence[_Planned], imatrix: str, checkpoint: Checkpoint) -> list[_Planned]:
    """The same, with what the file at `imatrix` says of the columns of each matrix."""
    shapes = {name: checkpoint.shape(name) for name in checkpoint.names()}
    found = importance_of_weights(read_imatrix(imatrix), imatrix, checkpoint.config, shapes)
    takers = {planned.name for planned in plan if planned.takes_imatrix}
    if not takers & found.keys():
        raise LoadError(f"no matrix is to be of a type that has a use for the imatrix {imatrix}.")
    return [
        planned._replace(
            change=planned.change._replace(importance=torch.from_numpy(found[planned.name]))
        )
        if planned.change is not None and planned.name in takers & found.keys()
        else planned
        for planned in plan
    ]


def _warn_of_second_packing(files: ModelFiles) -> None:
    if read_method(files.directory) is not None:
        log.warning(
            "%s is quantised already and is packed again from that: one made from the unquantised "
            "model would be better",
            files.name,
        )


def _warn_of_fallbacks(plan: Sequence[_Planned]) -> None:
    """Of matrices whose rows are no whole number of the blocks that are asked for."""
    fallbacks = Counter(
        (planned.wanted.name, planned.kind)
        for planned in plan
        if planned.wanted is not None and not _is_as_wanted(planned)
    )
    for (wanted, kind), count in fallbacks.items():
        log.warning(
            "%d matrices have rows that do not suit %s and %s",
            count,
            wanted,
            f"are packed as {kind}" if kind else "stay as they are",
        )


def _is_as_wanted(planned: _Planned) -> bool:
    assert planned.wanted is not None
    form = memory_form(planned.wanted, *planned.shape[-2:])
    return form is not None and planned.rows is not None and form.kind == planned.rows.kind


def _copy_companions(files: ModelFiles, directory: Path) -> None:
    """The tokenizer, the user's own if there is one, and how to generate."""
    sources = [files.directory] if files.tokenizer is None else [files.directory, files.tokenizer]
    for source in sources:
        for name in companions([path.name for path in source.iterdir()]):
            shutil.copyfile(source / name, directory / name)


def _write_config(files: ModelFiles, plan: Iterable[_Planned], directory: Path) -> None:
    """config.json as it was, and how the weights are packed."""
    config = read_json(files.directory / "config.json", dict[str, Any])
    for part in (config, config.get("text_config") or {}):
        for key in _OLD_KEYS:
            part.pop(key, None)
    kinds = {planned.name: planned.kind for planned in plan if planned.kind}
    config["quantization_config"] = _quantisation(kinds)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _quantisation(kinds: Mapping[str, str]) -> dict[str, Any]:
    usual = Counter(kinds.values()).most_common(1)[0][0]
    others = {name: kind for name, kind in kinds.items() if kind != usual}
    return {"quant_method": "tramontane", "version": 1, "type": usual, "others": others}


def _out(planned: _Planned, checkpoint: Checkpoint) -> OutTensor:
    name, shape = planned.name, planned.shape
    if planned.rows is None:
        dtype = checkpoint.tensor(name).dtype
        return OutTensor(name, shape, dtype, lambda: checkpoint.pieces(name))
    num_bytes = shape[-1] // planned.rows.num_weights * planned.rows.num_bytes
    return OutTensor(
        name, (*shape[:-1], num_bytes), torch.uint8, lambda: _packed(planned, checkpoint)
    )


def _packed(planned: _Planned, checkpoint: Checkpoint) -> Iterator[Tensor]:
    """Rows of the matrix in blocks; of a stack, one matrix after another."""
    assert planned.change is not None, "it has rows"
    quantised = QuantisedCheckpoint(checkpoint, {planned.name: planned.change})
    stored = quantised.packed(planned.name)
    assert stored is not None, "the plan has asked for its kind"
    return stored.pieces
