"""Whether a model's logits are right: those of transformers in float32, on the same weights."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.layers.decoder import Decoder
from tests.bench.on_gpu.models import RandomCheckpoint
from tests.bench.on_gpu.peer import make_peer
from tests.bench.on_gpu.probe import relative_error
from tests.bench.on_gpu.row import Row
from tests.bench.on_gpu.setting import Setting
from tests.bench.on_gpu.stepping import batch_of, caches_for, load

_LENGTH = 42
# We may be so many times as far from float32 as transformers in the model's own type is.
_TIMES, _LEAST = 2.0, 1e-3


def logits_rows(
    part: str, label: str, checkpoint: RandomCheckpoint, sizes: Sequence[int], setting: Setting
) -> Iterator[Row]:
    """A row for each number of sequences: a prompt's last logits, and those one token later."""
    config, device = checkpoint.config, setting.device
    exact = make_peer(config, checkpoint.tensor, torch.float32, device)
    weights = dict(exact.named_parameters())
    rounded = make_peer(config, weights.__getitem__, setting.dtype, device)
    model = load(checkpoint, setting)
    for size in sizes:
        shape = (size, _LENGTH)
        ids = torch.randint(model.config.vocab_size, shape, device=setting.device)
        expected = _peer_logits(exact, ids)
        error = relative_error(_logits(model, ids, setting), expected)
        theirs = relative_error(_peer_logits(rounded, ids), expected)
        bound = _TIMES * theirs + _LEAST
        yield Row(
            part=part,
            name=f"{label}, batch {size}",
            state="checked" if error <= bound else "wrong",
            error=error,
            bound=bound,
            note=f"against transformers in float32; its own in {_name(setting)}: {theirs:.1e}",
        )


def _name(setting: Setting) -> str:
    return str(setting.dtype).removeprefix("torch.")


@torch.inference_mode()
def _peer_logits(peer: Any, token_ids: Tensor) -> Tensor:
    """Of the last two of [S, L] ids: [S, 2, V] in float64."""
    logits: Tensor = peer(token_ids, use_cache=False).logits
    return logits[:, -2:].double()


@torch.inference_mode()
def _logits(model: Decoder, token_ids: Tensor, setting: Setting) -> Tensor:
    """The same of ours: all but the last are a prompt, the last is decoded."""
    prompt, last = token_ids[:, :-1], token_ids[:, -1:]
    assert prompt.shape[1] % 16, "the last token lies in the prompt's last block"
    batches = (batch_of(prompt, 0), batch_of(last, prompt.shape[1]))
    caches = caches_for(model, batches[0], setting)
    found = [model.logits(model.forward(b, caches)[b.logits_indices]) for b in batches]
    return torch.stack(found, dim=1)
