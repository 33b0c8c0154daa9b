"""Makes the engine of a model for vectors or scores. Knows no file's contents."""

import msgspec
import torch

from engine.capacity import model_length
from engine.config import EngineConfig, Task
from engine.encoders.families import ENCODERS
from engine.errors import LoadError
from engine.fingerprint import fingerprint
from engine.messages import EngineInfo
from engine.pooling.decoder_parts import load_decoder
from engine.pooling.encoder_parts import load_encoder
from engine.pooling.engine import PoolingEngine
from engine.pooling.parts import Identity, Parts, dense_files
from engine.pooling.recipe import read_max_length
from engine.quant.names import isq_name
from engine.weights.files import ModelFiles
from engine.weights.progress import Progress
from engine.weights.task import read_architecture


def load_pooling_engine(
    files: ModelFiles,
    task: Task,
    config: EngineConfig,
    device: torch.device,
    progress: Progress | None = None,
) -> PoolingEngine:
    """Load the model and make its engine. Raises LoadError: one sentence that says what to do."""
    if config.max_num_batched_tokens < 1:
        raise LoadError("max_num_batched_tokens must be at least 1.")
    architecture = read_architecture(files) if files.kind == "plain" else ""
    if architecture in ENCODERS:
        parts = load_encoder(files, architecture, task, config, device, progress)
    else:
        parts = load_decoder(files, task, config, device, progress)
    length = _length(files, parts, config)
    info = EngineInfo(
        context_length=length,
        vocab_size=parts.config.vocab_size,
        kv_tokens=max(length, config.max_num_batched_tokens),  # what one step can hold
        max_seqs=config.max_seqs,
        device=str(device),
        dtype=str(parts.dtype).removeprefix("torch."),
        fingerprint=_fingerprint(files, parts, task),
        isq=isq_name(config.isq) if config.isq else "",
        task=task,
        vector_size=parts.head.size,
    )
    return PoolingEngine(parts.states, parts.head, info, config, device, parts.num_types)


def _length(files: ModelFiles, parts: Parts, config: EngineConfig) -> int:
    """The longest text: as asked for, or by the model's positions and its makers' own limit."""
    stated = read_max_length(files.directory) if files.kind == "plain" else None
    longest = min(parts.config.context_length, stated or parts.config.context_length)
    return model_length(config, msgspec.structs.replace(parts.config, context_length=longest))


def _fingerprint(files: ModelFiles, parts: Parts, task: Task) -> str:
    weights = (*files.weights, *dense_files(files, parts.recipe))
    whole = msgspec.structs.replace(files, weights=weights)
    return fingerprint(whole, Identity(parts.config, task, parts.recipe))
