"""What goes into an engine and what comes out: token ids, as data that can cross processes."""

from typing import Protocol

import msgspec

from engine.config import SamplingParams, Task


class SequenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to generate, or to embed or score.

    `output_ids` is what an earlier attempt already made: it is prefilled, counts as generated for
    penalties, positions and limits, and is not emitted again. `type_ids`: the kind of each prompt
    token, which the encoders of BERT's kind tell a pair's two texts apart by; empty: all 0.
    """

    id: str
    prompt_ids: list[int]
    params: SamplingParams
    output_ids: list[int] = []
    type_ids: list[int] = []
    salt: str = ""  # enters the first block hash, so tenants share no prefix blocks


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token's natural log-probability, and the most probable ids in its place with theirs."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class SequenceOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What one step made for one sequence. `error`: (code, message) when it was refused or lost.

    `logprobs` has one item for each of `token_ids`, `prompt_logprobs`, on the first output, for
    each prompt token but the first, where the sequence asked for them. `vector`: little-endian
    float32, an embedding as the model's files want it pooled and scaled, or a classifier's scores
    after its activation; `finish` is then "stop".
    """

    id: str
    token_ids: list[int] = []
    finish: str | None = None  # stop, length
    cached_tokens: int = 0  # prompt tokens taken from the prefix cache; set on the first output
    error: tuple[str, str] | None = None
    logprobs: list[TokenLogprob] = []
    prompt_logprobs: list[TokenLogprob] = []
    vector: bytes = b""


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Gauges and counters after a step."""

    running: int = 0
    waiting: int = 0
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    num_preemptions: int = 0
    prefix_queries: int = 0  # prompt tokens looked up
    prefix_hits: int = 0  # prompt tokens found


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded engine says of itself."""

    context_length: int
    vocab_size: int
    kv_tokens: int
    max_seqs: int
    device: str
    dtype: str
    # of weights and shape: engines with the same one continue each other's streams
    fingerprint: str = ""
    isq: str = ""  # the type that the weights were quantised to while they were loaded
    isq_types: tuple[str, ...] = ()  # what `requantize` takes
    task: Task = "generate"
    vector_size: int = 0  # numbers in a vector; 0: it makes none


class EngineLike(Protocol):
    """What a worker needs of an engine: `engine.engine.Engine`, or a scripted one in benches."""

    info: EngineInfo

    def add(self, request: SequenceRequest) -> None:
        """Queue a sequence. Raises EngineError if it can never run."""

    def cancel(self, sequence_id: str) -> None:
        """Forget a sequence and free its blocks before the next step; unknown ids are ignored."""

    def has_work(self) -> bool:
        """True while a sequence waits or runs."""

    def step(self) -> list[SequenceOutput]:
        """One forward for what fits the token budget; the sequences that gained tokens or ended."""

    @property
    def is_requantizing(self) -> bool:
        """True from `requantize` until `take_weights` has told its end."""

    def requantize(self, isq: str) -> None:
        """Begin to load the weights in another type, beside the steps.

        Raises LoadError: one sentence, and nothing was begun.
        """

    def take_weights(self) -> str | None:
        """Put the new weights in the place of the old ones if they are loaded; between two steps.

        None while they are not; then "", or why they cannot be had, and the old ones stay.
        """

    def stats(self) -> EngineStats:
        """Gauges now."""
