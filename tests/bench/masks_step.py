"""Times the engine's steps with and without a grammar. Knows no text."""

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.batch import Batch
from engine.config import EngineConfig, ModelConfig, SamplingParams
from engine.engine import Engine
from engine.messages import SequenceRequest
from engine.text.tokenizer import Tokenizer

NUM_SEQUENCES = (1, 16)
FORWARDS_MS = (0, 5)
NUM_STEPS = 40
NUM_TURNS = 5


class Waiting:
    """A model whose forward takes its time and no processor, as that of a GPU.

    Its logits are other random ones in each step.
    """

    def __init__(self, vocab_size: int, max_seqs: int, forward_ms: float) -> None:
        generator = torch.Generator().manual_seed(0)
        self._rows = torch.randn(max_seqs, 2 * vocab_size, generator=generator)
        self._vocab_size = vocab_size
        self._start = 0
        self._forward_s = forward_ms / 1000

    def forward(self, batch: Batch, kv_cache: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        time.sleep(self._forward_s)
        return torch.zeros(batch.token_ids.shape[0], 1)

    def logits(self, hidden: Tensor) -> Tensor:
        self._start = (self._start + 7919) % self._vocab_size
        end = self._start + self._vocab_size
        return self._rows[: hidden.shape[0], self._start : end].clone()


def step_us(
    tokenizer: Tokenizer, vocab_size: int, grammar: str, num_sequences: int, forward_ms: float
) -> tuple[float, float]:
    """Microseconds of a step of `num_sequences`, free and bound to `grammar`.

    Of the fastest tenth the slowest: what other processes of the machine take is not in it.
    """
    engine = _make_engine(tokenizer, vocab_size, num_sequences, forward_ms)
    times: dict[str, list[float]] = {"": [], grammar: []}
    for _ in range(NUM_TURNS):
        for kind, taken in times.items():
            taken += _steps(engine, tokenizer, kind, num_sequences)
    free_s, bound_s = (statistics.quantiles(taken, n=10)[0] for taken in times.values())
    return 1e6 * free_s, 1e6 * bound_s


def _steps(engine: Engine, tokenizer: Tokenizer, grammar: str, num_sequences: int) -> list[float]:
    for number in range(num_sequences):
        params = SamplingParams(
            max_tokens=NUM_STEPS,
            seed=number,
            temperature=0.0,
            grammar=grammar,
            logit_bias=dict.fromkeys(tokenizer.eos_ids, -100.0),
            stop_token_ids=tuple(tokenizer.eos_ids),
        )
        engine.add(SequenceRequest(id=str(number), prompt_ids=[5, 6, 7], params=params))
    while engine.stats().running < num_sequences and engine.has_work():
        engine.step()
    times = []
    while engine.stats().running == num_sequences:
        start = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - start)
    for number in range(num_sequences):
        engine.cancel(str(number))
    return times


def _make_engine(tokenizer: Tokenizer, vocab_size: int, max_seqs: int, forward_ms: float) -> Engine:
    model_config = ModelConfig(
        architecture="Waiting",
        vocab_size=vocab_size,
        hidden_size=1,
        intermediate_size=1,
        num_layers=0,
        num_heads=1,
        num_kv_heads=1,
        head_dim=1,
        context_length=1024,
    )
    return Engine(
        Waiting(vocab_size, max_seqs, forward_ms),
        model_config,
        EngineConfig(max_seqs=max_seqs),
        device=torch.device("cpu"),
        dtype=torch.float32,
        load_tokenizer=lambda: tokenizer,
    )
