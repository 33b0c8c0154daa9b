"""In-situ quantisation: what each matrix of a model becomes as it is loaded. Knows names, no data.

As in mistral.rs, that is every projection, experts' too, in the type asked for; the embedding and
the output in one step more, unless a topology names them; routers, norms and biases stay.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch

from engine.config import EngineConfig
from engine.quant.memory_form import memory_form
from engine.quant.registry import Format, find_format, fitting_format, step_up
from engine.quant.row_format import RowFormat
from engine.weights.checkpoint import Checkpoint
from engine.weights.imatrix import Entries, read_imatrix
from engine.weights.imatrix_names import importance_of_weights
from engine.weights.isq_settings import check_isq
from engine.weights.loader import FLOAT_KINDS
from engine.weights.quantised import Change, QuantisedCheckpoint, is_kept
from engine.weights.topology import Topology

logger = logging.getLogger(__name__)

_ENDS = ("model.embed_tokens.weight", "lm_head.weight")
_ROUTER = re.compile(r"\.(mlp|block_sparse_moe)\.gate\.weight")
_STACK = re.compile(r"\.experts\.(gate_up_proj|down_proj)")
_NUM_NAMED = 3  # of the matrices that a warning is about

Formats = Mapping[str, Format]


class Isq(NamedTuple):
    """What is asked for: a format for all, a topology, the imatrix's path and its entries."""

    format: Format | None
    topology: Topology = Topology()
    imatrix: str = ""
    entries: Entries = MappingProxyType({})

    def apply(self, checkpoint: Checkpoint) -> QuantisedCheckpoint:
        """The checkpoint, quantised as it is read. Says in the log what becomes what.

        Raises LoadError for a topology or an imatrix of another model.
        """
        shapes = {name: checkpoint.shape(name) for name in checkpoint.names()}
        if checkpoint.config.tie_word_embeddings:
            shapes.pop("lm_head.weight", None)  # a copy of the embedding, which nobody reads
        matrices = {name: shape for name, shape in shapes.items() if can_quantise(name, shape)}
        self.topology.check_fit(checkpoint.config.num_layers, matrices)
        wanted = {name: self.wanted(name) for name in matrices}
        asked = {name: format for name, format in wanted.items() if format is not None}
        formats = _fitting(asked, matrices)
        _warn_of_second_packing(checkpoint, formats)
        _warn_of_no_kernels(formats, matrices)
        changes = {name: Change(format) for name, format in formats.items()}
        if self.imatrix:
            changes = self._weighed(changes, checkpoint, shapes)
        _tell(formats)
        return QuantisedCheckpoint(checkpoint, changes)

    def wanted(self, name: str) -> Format | None:
        """What a matrix is to become, if it fits; None: it stays as it is."""
        if pinned := self.topology.isq(name):
            return find_format(pinned)
        if self.format is None:
            return None
        return step_up(self.format) if name in _ENDS else self.format

    def _weighed(
        self,
        changes: Mapping[str, Change],
        checkpoint: Checkpoint,
        shapes: Mapping[str, tuple[int, ...]],
    ) -> dict[str, Change]:
        found = importance_of_weights(self.entries, self.imatrix, checkpoint.config, shapes)
        takers = {name for name, change in changes.items() if _takes_imatrix(change.format)}
        if without := sorted(takers - found.keys() - set(_ENDS)):
            logger.warning(
                "the imatrix %s has nothing on %s; they are quantised without",
                self.imatrix,
                _listed(without),
            )
        return {
            name: change._replace(importance=torch.from_numpy(found[name]))
            if name in takers and name in found
            else change
            for name, change in changes.items()
        }


def requested_isq(config: EngineConfig, device: torch.device) -> Isq | None:
    """What `config` asks for, None if nothing. Raises LoadError if it cannot be had."""
    topology = check_isq(config)
    topology.check_device(str(device))
    if not config.isq and not topology.types():
        return None
    format = find_format(config.isq) if config.isq else None
    entries = read_imatrix(config.imatrix) if config.imatrix else {}
    return Isq(format, topology, config.imatrix, entries)


def can_quantise(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a matrix of weights, or a stack of experts', and no router."""
    if len(shape) == 3:
        return _STACK.search(name) is not None
    return len(shape) == 2 and name.endswith(".weight") and _ROUTER.search(name) is None


def _takes_imatrix(format: Format) -> bool:
    return isinstance(format, RowFormat) and format.takes_imatrix


def _fitting(asked: Formats, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Format]:
    """The formats, or those that stand in for them; without the matrices that none fits."""
    found = {name: fitting_format(format, shapes[name][-2:]) for name, format in asked.items()}
    fallbacks: dict[str, list[str]] = {}
    for name, format in sorted(found.items()):
        if format is not asked[name]:
            instead = "not quantised" if format is None else format.name
            key = f"{asked[name].name} -> {instead}"
            fallbacks.setdefault(key, []).append(name)
    if fallbacks:
        logger.warning(
            "some matrices do not fit the blocks of their type: %s",
            "; ".join(f"{change}: {_listed(names)}" for change, names in fallbacks.items()),
        )
    return {name: format for name, format in found.items() if format is not None}


def _warn_of_second_packing(checkpoint: Checkpoint, formats: Formats) -> None:
    twice = sorted(
        name
        for name, format in formats.items()
        if _is_in_blocks(checkpoint, name) and not is_kept(checkpoint, name, format)
    )
    if twice:
        logger.warning(
            "%s: packed already in the file and quantised again from that; the unquantised model "
            "would give better weights",
            _listed(twice),
        )


def _is_in_blocks(checkpoint: Checkpoint, name: str) -> bool:
    """Whether the file has rounded the tensor already: F16 and BF16 are what it was made in."""
    stored = checkpoint.packed(name)
    return stored is not None and stored.kind not in FLOAT_KINDS


def _warn_of_no_kernels(formats: Formats, shapes: Mapping[str, tuple[int, ...]]) -> None:
    unheld = sorted(n for n, form in formats.items() if memory_form(form, *shapes[n][-2:]) is None)
    if unheld:
        logger.warning(
            "no kernels hold %s: %s are unpacked as they are loaded, so they have their type's "
            "values and not its size",
            ", ".join(sorted({formats[name].name for name in unheld})),
            _listed(unheld),
        )


def _tell(formats: Formats) -> None:
    counts = Counter(format.name for format in formats.values())
    listed = ", ".join(f"{count} to {name}" for name, count in counts.most_common())
    logger.info("in-situ quantisation of %d matrices: %s", len(formats), listed or "none")


def _listed(names: list[str]) -> str:
    """How many, and the first of them."""
    more = ", …" if len(names) > _NUM_NAMED else ""
    unit = "matrix" if len(names) == 1 else "matrices"
    return f"{len(names)} {unit} ({', '.join(names[:_NUM_NAMED])}{more})"
