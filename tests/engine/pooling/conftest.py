"""Engines for vectors and scores, and what they make of token ids."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.config import EngineConfig, SamplingParams
from engine.engine import load_engine
from engine.messages import EngineLike, SequenceRequest
from engine.weights.files import ModelRef, resolve


@pytest.fixture
def load() -> Callable[..., EngineLike]:
    """The engine of a directory, on the CPU in float32."""

    def load_directory(directory: Path, **settings: Any) -> EngineLike:
        config = EngineConfig(device="cpu", dtype="float32", **settings)
        return load_engine(resolve(ModelRef(model=str(directory))), config)

    return load_directory


@pytest.fixture
def vectors() -> Callable[..., list[Tensor]]:
    """What an engine makes of texts that are queued together, in their order."""

    def run(
        engine: EngineLike, texts: Sequence[list[int]], types: Sequence[list[int]] = ()
    ) -> list[Tensor]:
        for number, text in enumerate(texts):
            engine.add(
                SequenceRequest(
                    id=str(number),
                    prompt_ids=text,
                    params=SamplingParams(max_tokens=0),
                    type_ids=types[number] if types else [],
                )
            )
        made: dict[str, Tensor] = {}
        while engine.has_work():
            for output in engine.step():
                assert output.finish == "stop"
                assert output.error is None
                values = np.frombuffer(output.vector, dtype="<f4").copy()
                assert len(values) == engine.info.vector_size
                made[output.id] = torch.from_numpy(values)
        return [made[str(number)] for number in range(len(texts))]

    return run
