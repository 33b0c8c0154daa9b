"""Engines for tests of processes: no torch, tokens at a steady pace, or a refusal to load."""

import time

from engine.config import EngineConfig
from engine.errors import LoadError
from engine.messages import EngineInfo, EngineStats, SequenceOutput, SequenceRequest
from engine.weights.files import ModelFiles
from engine.weights.progress import Progress

STEP_S = 0.01
TOKEN_ID = 100


class ScriptedEngine:
    """Gives every sequence the same token once a step until its max_tokens."""

    is_requantizing = False

    info = EngineInfo(
        context_length=4096,
        vocab_size=1024,
        kv_tokens=8192,
        max_seqs=8,
        device="scripted",
        dtype="float32",
    )

    def __init__(self) -> None:
        self._left: dict[str, int] = {}

    def add(self, request: SequenceRequest) -> None:
        self._left[request.id] = request.params.max_tokens - len(request.output_ids)

    def cancel(self, sequence_id: str) -> None:
        self._left.pop(sequence_id, None)

    def has_work(self) -> bool:
        return bool(self._left)

    def step(self) -> list[SequenceOutput]:
        time.sleep(STEP_S)
        self._left = {id_: left - 1 for id_, left in self._left.items()}
        outputs = [
            SequenceOutput(id=id_, token_ids=[TOKEN_ID], finish=None if left else "length")
            for id_, left in self._left.items()
        ]
        self._left = {id_: left for id_, left in self._left.items() if left}
        return outputs

    def requantize(self, isq: str) -> None:
        raise LoadError("It has no weights.")

    def take_weights(self) -> str | None:
        raise AssertionError("nothing was begun")

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self._left), kv_blocks_total=512)


def load(files: ModelFiles, config: EngineConfig, progress: Progress) -> ScriptedEngine:
    """The factory that TRAMONTANE_ENGINE names."""
    progress(1, 1)
    return ScriptedEngine()


def refuse(files: ModelFiles, config: EngineConfig, progress: Progress) -> ScriptedEngine:
    """A model that cannot be loaded."""
    raise LoadError("The weights are made of cheese; choose others.")
