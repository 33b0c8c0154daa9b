"""Runs steps on a device that is told ahead: decode steps as graphs, all others as `Runner` does.

Knows steps, no queue of work.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from engine.batch import Int64, SampledRows
from engine.decode_graphs import DecodeGraphs
from engine.errors import OutOfMemory
from engine.graph_device import GraphDevice
from engine.runner import Made, Model, Runner, Sampled
from engine.scheduler import Step
from engine.shortage import is_shortage

_NO_GRAPHS = (
    "The decode graphs of the new weights do not fit the memory beside the KV cache; choose a "
    "smaller type, lower --pa-gpu-mem-usage or say --enforce-eager."
)


class Flight(NamedTuple):
    """A decode step that the device has been told to compute; `wait` gives its ids."""

    step: Step
    wait: Callable[[], list[int]]


class GraphRunner:
    """A runner that keeps the state of its rows on the device, where a decode step begins.

    A step that does not lead on has to be waited for (`run`) before the next one is chosen; behind
    one that does, the device can make another token of the same sequences at once (`launch`).
    """

    def __init__(self, runner: Runner, graphs: DecodeGraphs, device: GraphDevice) -> None:
        """Captures the graphs of the runner's model."""
        self._runner, self._graphs, self._device = runner, graphs, device
        graphs.capture_all(runner.model)

    def take_model(self, model: Model) -> None:
        """Another model in the place of the runner's. What is in flight is to be dropped.

        Raises OutOfMemory where its graphs do not fit; nothing can be launched then.
        """
        self._graphs.forget()
        self._runner.model = model
        try:
            self._graphs.capture_all(model)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            raise OutOfMemory(_NO_GRAPHS) from error

    def leads_on(self, step: Step) -> bool:
        """Whether all that the step does is in the graph, and so with those behind it."""
        return self._is_decode(step) and self._runner.sampler.is_plain(_sampled_rows(step))

    @torch.inference_mode()
    def launch(self, step: Step) -> Flight:
        """Begin a step that leads on, or the one behind such a step, which may be in flight."""
        self._decode(step)
        return Flight(step, self._device.fetch(self._graphs.ids[: len(step.sequences)]))

    @torch.inference_mode()
    def run(self, step: Step) -> Sampled:
        """Compute a step that has at least one sequence. None may be in flight."""
        if self._is_decode(step):
            return self._runner.tell(step, self._sample_apart(step))
        made = self._runner.compute(step)
        self._note(step, made)
        return self._runner.tell(step, made)

    def _is_decode(self, step: Step) -> bool:
        """Whether it decodes only; prompts that are to be described need the hidden states."""
        if step.admitted or not step.is_decode:
            return False
        return not any(sequence.wants_prompt_logprobs for sequence in step.sequences)

    def _decode(self, step: Step) -> None:
        if step.extended:
            self._runner.builder.note(step)
            self._extend(step)
        self._graphs.launch(_rows(step))

    def _sample_apart(self, step: Step) -> Made:
        """A decode step with rows that the graph cannot sample: what it chose counts for none."""
        masks = self._runner.begin_masks(step)
        self._decode(step)
        logits = self._graphs.logits[: len(step.sequences)]
        made = self._runner.sample(step, logits, _sampled_rows(step), masks)
        self._graphs.take(made.ids)
        return made

    def _note(self, step: Step, made: Made | None) -> None:
        """Have the rows stand where a step leaves them that was no graph's."""
        state, upload = self._graphs.state, self._device.upload
        if step.admitted:
            rows = _int64([sequence.row for sequence in step.admitted])
            rope_sets = _int64([sequence.rope_set for sequence in step.admitted])
            settings = self._runner.sampler.settings(rows)
            state.admit(rows, settings, rope_sets, self._runner.builder.tables.whole(rows))
        self._extend(step)
        lengths = [sequence.num_computed + num_tokens for sequence, num_tokens in step.items()]
        # Of a prompt that is not through, the next token is known; the others' are sampled.
        ends = zip(step.sequences, lengths, strict=True)
        last_ids = [s.token_ids[length] if length < len(s) else 0 for s, length in ends]
        rows = _rows(step)
        state.stand(rows, _int64(last_ids), _int64(lengths))
        if made is not None:
            state.take(upload(rows[step.sampled]), made.ids)

    def _extend(self, step: Step) -> None:
        if step.extended:
            rows = [sequence.row for sequence in step.extended]
            columns = [len(sequence.blocks) - 1 for sequence in step.extended]
            blocks = [sequence.blocks[-1] for sequence in step.extended]
            self._graphs.state.extend(rows, columns, blocks)


def _rows(step: Step) -> Int64:
    return _int64([sequence.row for sequence in step.sequences])


def _sampled_rows(step: Step) -> SampledRows:
    """Of a decode step that is the only one not committed."""
    return SampledRows(_rows(step), _int64([len(s.token_ids) for s in step.sequences]))


def _int64(values: list[int]) -> Int64:
    return np.array(values, dtype=np.int64)
