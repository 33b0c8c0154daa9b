"""A scripted engine: ids are a pure function of prompt, seed, choice and position. Knows no model.

The environment sets its pace: SCRIPTED_STEP_MS, SCRIPTED_MAX_SEQS, SCRIPTED_CONTEXT. It misbehaves
on request: SCRIPTED_LOAD_ERROR (a sentence), SCRIPTED_CRASH_FILE (a step dies if the file exists,
and removes it), SCRIPTED_CRASH_SEED (a step with a sequence of this seed always dies),
SCRIPTED_HANG_FILE (a step that finds the file removes it and never ends), SCRIPTED_ERROR_SEED (a
sequence of this seed ends with an engine error). Other weights take
SCRIPTED_REQUANTIZE_MS, or are refused with SCRIPTED_REQUANTIZE_ERROR; the tokens stay the same. A
sequence of seed SCRIPTED_ECHO_SEED says its prompt again and again; SCRIPTED_FINGERPRINT names the
weights. For
the task `embed` or `score` it makes a vector of each sequence in one step, oldest first.
"""

import os
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import tokenizers

from engine.config import EngineConfig
from engine.errors import LoadError, PromptTooLong
from engine.messages import EngineInfo, EngineStats, SequenceOutput, SequenceRequest
from engine.quant.names import ISQ_NAMES
from engine.weights.files import ModelFiles

BLOCK_SIZE = 16


def key_of(prompt_ids: list[int], seed: int, choice: int) -> int:
    """What the tokens of a sequence depend on beside their position."""
    text = f"{seed}:{choice}:{','.join(map(str, prompt_ids))}"
    return zlib.crc32(text.encode())


def token_at(vocabulary: list[int], key: int, position: int) -> int:
    """The token at `position` of an answer."""
    mixed = (key + 0x9E3779B9 * (position + 1)) & 0xFFFFFFFF
    mixed = ((mixed ^ mixed >> 16) * 0x45D9F3B) & 0xFFFFFFFF
    return vocabulary[(mixed ^ mixed >> 16) % len(vocabulary)]


def plain_ids(directory: Path) -> list[int]:
    """The ids of a tokenizer that are not special tokens."""
    backend = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    added = backend.get_added_tokens_decoder()
    return sorted(id_ for id_ in backend.get_vocab().values() if id_ not in added)


VECTOR_SIZES = {"embed": 8, "score": 1}


def vector_of(prompt_ids: list[int], type_ids: Sequence[int], size: int) -> bytes:
    """What it makes of a sequence: little-endian float32."""
    seeds = (zlib.crc32(f"{prompt_ids}{list(type_ids)}{i}".encode()) for i in range(size))
    return struct.pack(f"<{size}f", *(seed / 2**31 - 1 for seed in seeds))


class _Sequence:
    def __init__(self, request: SequenceRequest) -> None:
        params = request.params
        self.id = request.id
        self.key = key_of(request.prompt_ids, params.seed, params.choice)
        self.seed = params.seed
        self.position = len(request.output_ids)
        self.max_tokens = params.max_tokens
        self.prompt_ids = request.prompt_ids
        self.type_ids = request.type_ids
        self.num_prompt = len(request.prompt_ids)

    @property
    def num_blocks(self) -> int:
        return -(-(self.num_prompt + self.position) // BLOCK_SIZE)


class ScriptedEngine:
    """Satisfies engine.messages.EngineLike."""

    def __init__(self, files: ModelFiles, config: EngineConfig) -> None:
        self._vocabulary = plain_ids(files.directory)
        self._step_s = float(os.environ.get("SCRIPTED_STEP_MS", "0")) / 1000
        self._crash_file = os.environ.get("SCRIPTED_CRASH_FILE")
        self._crash_seed = int(os.environ.get("SCRIPTED_CRASH_SEED", "-1"))
        self._hang_file = os.environ.get("SCRIPTED_HANG_FILE")
        self._error_seed = int(os.environ.get("SCRIPTED_ERROR_SEED", "-1"))
        self._echo_seed = int(os.environ.get("SCRIPTED_ECHO_SEED", "-1"))
        max_seqs = int(os.environ.get("SCRIPTED_MAX_SEQS", config.max_seqs))
        context = int(os.environ.get("SCRIPTED_CONTEXT", config.max_model_len or 4096))
        self._max_seqs = max_seqs
        self._vector_size = VECTOR_SIZES.get(config.task, 0)
        self._waiting: dict[str, _Sequence] = {}
        self._running: dict[str, _Sequence] = {}
        self._next_step_s = 0.0
        self.info = EngineInfo(
            context_length=context,
            vocab_size=max(self._vocabulary) + 1,
            kv_tokens=max_seqs * context,
            max_seqs=max_seqs,
            device="scripted",
            dtype="none",
            fingerprint=os.environ.get("SCRIPTED_FINGERPRINT", "scripted"),
            isq=config.isq,
            isq_types=ISQ_NAMES,
            task="generate" if config.task == "auto" else config.task,
            vector_size=self._vector_size,
        )
        self.requantize_s = float(os.environ.get("SCRIPTED_REQUANTIZE_MS", "0")) / 1000
        self.requantize_error = os.environ.get("SCRIPTED_REQUANTIZE_ERROR", "")
        self._new: tuple[str, float] | None = None

    def add(self, request: SequenceRequest) -> None:
        sequence = _Sequence(request)
        num_made = 0 if self._vector_size else 1
        if sequence.num_prompt + num_made > self.info.context_length:
            raise PromptTooLong(sequence.num_prompt + num_made, self.info.context_length)
        self._waiting[request.id] = sequence

    def cancel(self, sequence_id: str) -> None:
        self._waiting.pop(sequence_id, None)
        self._running.pop(sequence_id, None)

    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    def step(self) -> list[SequenceOutput]:
        self._pace()
        while self._waiting and len(self._running) < self._max_seqs:
            id_ = next(iter(self._waiting))
            self._running[id_] = self._waiting.pop(id_)
        self._misbehave()
        return [self._advance(sequence) for sequence in list(self._running.values())]

    def _pace(self) -> None:
        """A step ends `_step_s` after the one before, as on a device that is always busy."""
        if self._step_s:
            now_s = time.monotonic()
            self._next_step_s = max(self._next_step_s, now_s) + self._step_s
            time.sleep(max(0.0, self._next_step_s - now_s))

    def _misbehave(self) -> None:
        if self._crash_file is not None and os.path.exists(self._crash_file):
            os.unlink(self._crash_file)
            raise RuntimeError("scripted crash")
        if any(sequence.seed == self._crash_seed for sequence in self._running.values()):
            raise RuntimeError("scripted poison")
        if self._hang_file is not None and os.path.exists(self._hang_file):
            os.unlink(self._hang_file)
            while True:
                time.sleep(3600)

    def _token(self, sequence: _Sequence) -> int:
        if sequence.seed == self._echo_seed:
            return sequence.prompt_ids[sequence.position % sequence.num_prompt]
        return token_at(self._vocabulary, sequence.key, sequence.position)

    def _advance(self, sequence: _Sequence) -> SequenceOutput:
        if sequence.seed == self._error_seed:
            del self._running[sequence.id]
            return SequenceOutput(id=sequence.id, error=("engine_error", "scripted error"))
        if self._vector_size:
            del self._running[sequence.id]
            vector = vector_of(sequence.prompt_ids, sequence.type_ids, self._vector_size)
            return SequenceOutput(id=sequence.id, finish="stop", vector=vector)
        token = self._token(sequence)
        sequence.position += 1
        is_last = sequence.position >= sequence.max_tokens
        if is_last:
            del self._running[sequence.id]
        return SequenceOutput(
            id=sequence.id, token_ids=[token], finish="length" if is_last else None
        )

    @property
    def is_requantizing(self) -> bool:
        return self._new is not None

    def requantize(self, isq: str) -> None:
        if self._new is not None:
            raise LoadError("It is still at it.")
        self._new = (isq, time.monotonic() + self.requantize_s)

    def take_weights(self) -> str | None:
        assert self._new is not None
        isq, due_s = self._new
        if time.monotonic() < due_s:
            return None
        self._new = None
        if not self.requantize_error:
            self.info = msgspec.structs.replace(self.info, isq=isq)
        return self.requantize_error

    def stats(self) -> EngineStats:
        blocks = sum(sequence.num_blocks for sequence in self._running.values())
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_blocks_used=blocks,
            kv_blocks_total=self.info.kv_tokens // BLOCK_SIZE,
        )


def load_engine(
    files: ModelFiles,
    config: EngineConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ScriptedEngine:
    """The factory for TRAMONTANE_ENGINE=tests.scripted_engine:load_engine."""
    if message := os.environ.get("SCRIPTED_LOAD_ERROR"):
        raise LoadError(message)
    progress(1, 1)
    return ScriptedEngine(files, config)
