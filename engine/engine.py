"""The engine: token ids in, token ids out, one step at a time. Knows no text, no HTTP, no queue.

Garbage collection: `load_engine` collects once and then freezes what it loaded (`gc.freeze`), so
that a later collection looks at live requests only, not at the hundred thousand objects of torch
and the model. The engine makes no reference cycles itself: what a sequence held goes when it ends.
"""

import functools
import gc
from collections.abc import Callable

import msgspec
import torch

from engine.block_manager import BlockManager
from engine.careful import Careful
from engine.compiling import Compiling
from engine.config import EngineConfig, ModelConfig
from engine.decode_graphs import DecodeGraphs
from engine.device import choose_cache_dtype, choose_device, choose_dtype, prepare_kernels
from engine.errors import InvalidInput, LoadError
from engine.fingerprint import fingerprint
from engine.graph_device import GraphDevice
from engine.graph_runner import GraphRunner
from engine.graph_setup import choose_graphs, graph_bytes
from engine.kv_cache import allocate
from engine.loading import load_model, reload
from engine.logprobs import add_logprobs
from engine.messages import EngineInfo, EngineLike, EngineStats, SequenceOutput, SequenceRequest
from engine.quant.names import ISQ_NAMES, isq_name
from engine.requantize import WeightChange, give_back_memory
from engine.request_check import check_request
from engine.runner import Model, Runner
from engine.scheduler import Scheduler, Step
from engine.sequence import Sequence
from engine.shortage import enough_memory
from engine.sizing import cache_capacity, check_settings
from engine.steps import OneByOne, Pipelined, Steps
from engine.text.text_model import load_vocabulary
from engine.text.tokenizer import Tokenizer
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelFiles
from engine.weights.progress import Progress
from engine.weights.rope_scaling import rope_switch
from engine.weights.task import find_task

_SMALLER = "serve a smaller model, or quantise it with --isq"
_SMALLER_CACHE = "lower --pa-gpu-mem or --pa-gpu-mem-usage"


class Engine:
    """A loaded model with its cache and its sequences; satisfies `EngineLike`. For one thread."""

    def __init__(
        self,
        model: Model,
        model_config: ModelConfig,
        config: EngineConfig,
        *,
        device: torch.device,
        dtype: torch.dtype,
        cache_dtype: torch.dtype | None = None,
        name: str = "",
        reload: Callable[[str], Model] | None = None,
        load_tokenizer: Callable[[], Tokenizer] | None = None,
        graph_device: GraphDevice | None = None,
    ) -> None:
        """`cache_dtype`, of keys and values, is `dtype` unless given; `name` is the fingerprint;
        `reload` loads the model in another type of its weights; without `load_tokenizer` there are
        no grammars; with `graph_device`, decode steps are graphs there.

        Raises LoadError if `config` cannot be met.
        """
        check_settings(config)
        cache_dtype = cache_dtype or dtype
        reserved_bytes = 0
        if graph_device is not None:
            with enough_memory("A graph of the decode step", device, "say --enforce-eager"):
                reserved_bytes = graph_bytes(model, model_config, config, cache_dtype, graph_device)
        capacity = cache_capacity(
            model, model_config, config, device, cache_dtype, reserved_bytes=reserved_bytes
        )
        size = (capacity.num_blocks, capacity.block_size)
        with enough_memory("The KV cache", device, _SMALLER_CACHE):
            cache = allocate(model_config, *size, cache_dtype, device)
        # Some configurations name an id that the model cannot make.
        self._eos_ids = [i for i in model_config.eos_token_ids if i < model_config.vocab_size]
        switch = rope_switch(model_config, capacity.context_length)
        self._runner = Runner(
            model,
            cache,
            capacity,
            config.max_seqs,
            model_config.vocab_size,
            device,
            has_rope_sets=switch > 0,
        )
        self._scheduler = Scheduler(
            BlockManager(
                capacity.num_blocks,
                capacity.block_size,
                config.enable_prefix_cache and config.paged_attn,
            ),
            config.max_seqs,
            config.max_num_batched_tokens,
            switch,
        )
        run, graphs = self._runner.run, None
        if graph_device is not None:
            with enough_memory("The graphs of all decode steps", device, _SMALLER_CACHE):
                graphs = GraphRunner(
                    self._runner,
                    DecodeGraphs(
                        *(cache, capacity, config.max_seqs, model_config.vocab_size, graph_device),
                        has_rope_sets=switch > 0,
                    ),
                    graph_device,
                )
            run = graphs.run
        forget = self._runner.prompt_logprobs.forget
        self._careful = Careful(self._scheduler, run, device, forget=forget)
        self._steps: Steps = (
            OneByOne(self._scheduler, self._runner, self._careful)
            if graphs is None
            else Pipelined(self._scheduler, graphs, self._careful)
        )
        # Those that what they came with has ended; the next step tells.
        self._ended: dict[str, SequenceOutput] = {}
        self._reload = reload
        self._change: WeightChange | None = None
        self._compiling = Compiling()
        self._load_tokenizer = load_tokenizer
        self.info = EngineInfo(
            context_length=capacity.context_length,
            vocab_size=model_config.vocab_size,
            kv_tokens=capacity.num_tokens,
            max_seqs=config.max_seqs,
            device=str(device),
            dtype=str(dtype).removeprefix("torch."),
            fingerprint=name,
            isq=isq_name(config.isq) if config.isq else "",
            isq_types=ISQ_NAMES if reload is not None else (),
        )

    def add(self, request: SequenceRequest) -> None:
        """Queue a sequence. Raises PromptTooLong or InvalidInput if it can never run."""
        self._check_request(request)
        sequence = Sequence(request, self._eos_ids, self.info.context_length)
        if request.params.grammar:
            self._compile(sequence)
        else:
            self._queue(sequence)

    def _compile(self, sequence: Sequence) -> None:
        """Keep a sequence aside until its grammar is there; that takes a moment."""
        if self._runner.grammars is None:
            if self._load_tokenizer is None:
                raise InvalidInput("This engine has no tokenizer for grammars.", "grammar")
            from engine.grammar import Grammars

            self._runner.grammars = Grammars(
                self._load_tokenizer, self.info.vocab_size, self._eos_ids
            )
        grammar = sequence.params.grammar
        future = self._runner.grammars.compile(grammar, sequence.output_ids)
        self._compiling.add(sequence, future)

    def _queue(self, sequence: Sequence) -> None:
        has_output = len(sequence) > sequence.num_prompt_tokens
        finish = sequence.finish() if has_output else None
        if finish is None and len(sequence) >= sequence.rule.max_length:
            finish = None if sequence.wants_prompt_logprobs else "length"
        if finish is None:
            self._scheduler.add(sequence)
        else:
            self._ended[sequence.id] = SequenceOutput(id=sequence.id, finish=finish)

    def _queue_compiled(self) -> None:
        is_idle = not (self._ended or len(self._scheduler))
        for sequence, error in self._compiling.take_done(is_idle=is_idle):
            if error is None:
                self._queue(sequence)
            else:
                self._ended[sequence.id] = _refusal(sequence.id, str(error))

    def cancel(self, sequence_id: str) -> None:
        """Forget a sequence and free its blocks at once; unknown ids are ignored."""
        self._ended.pop(sequence_id, None)
        self._compiling.cancel(sequence_id)
        self._scheduler.cancel(sequence_id)
        self._runner.prompt_logprobs.forget(sequence_id)

    def has_work(self) -> bool:
        """True while a sequence waits or runs, or has an end to be told."""
        return bool(self._ended or self._compiling or len(self._scheduler))

    def step(self) -> list[SequenceOutput]:
        """One forward for what fits the token budget; the sequences that gained tokens or ended.

        One that does not fit the memory gives nothing, and the next are smaller. Raises OutOfMemory
        when the smallest does not fit: all sequences are still here then.
        """
        if self._compiling:
            self._queue_compiled()
        made = self._steps.next()
        ended = [*self._ended.values(), *self._careful.take_refused()]
        self._ended.clear()
        if made is None:
            return ended
        step, sampled = made
        outputs = self._scheduler.commit(step, sampled.token_ids)
        outputs = add_logprobs(step, outputs, sampled.logprobs, self._runner.prompt_logprobs)
        return ended + (outputs if self._runner.grammars is None else self._judge(step, outputs))

    def _judge(self, step: Step, outputs: list[SequenceOutput]) -> list[SequenceOutput]:
        """End those whose grammar became too much for its limits: what they made is not to be had.

        `outputs` are in the order of `step.sampled`.
        """
        judged = []
        for index, output in zip(step.sampled, outputs, strict=True):
            grammar = step.sequences[index].grammar
            if grammar is not None and grammar.error:
                self.cancel(output.id)
                output = _refusal(output.id, f"The grammar became too complex: {grammar.error}")
            judged.append(output)
        return judged

    @property
    def is_requantizing(self) -> bool:
        """True from `requantize` until `take_weights` has told its end."""
        return self._change is not None

    def requantize(self, isq: str) -> None:
        """Begin to load the weights in type `isq`, "" as the files have them, beside the steps.

        Raises LoadError if that cannot begin.
        """
        if self._reload is None:
            raise LoadError("This engine was made without the model's files: it cannot reload it.")
        if self._change is not None:
            raise LoadError(f"The engine is still loading the weights of type {self._change.isq}.")
        self._change = WeightChange(isq, functools.partial(self._reload, isq))

    def take_weights(self) -> str | None:
        """Put the new weights in the place of the old ones if they are loaded; between two steps.

        Every sequence is computed again from its beginning, and nothing cached is hit. Returns None
        while they are not loaded; then "", or why they cannot be had, and the old ones stay. Raises
        OutOfMemory if they leave no room for their graphs: then there are neither.
        """
        change = self._change
        if change is None or not change.is_over:
            return None
        self._change = None
        try:
            model = change.result()
        except LoadError as error:
            return str(error)
        self._scheduler.begin_anew()
        self._steps.take_model(model)
        self.info = msgspec.structs.replace(self.info, isq=change.isq)
        _settle_garbage()
        give_back_memory()
        return ""

    def stats(self) -> EngineStats:
        """Gauges now."""
        scheduler = self._scheduler
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_blocks_used=scheduler.blocks.num_used,
            kv_blocks_total=scheduler.blocks.num_blocks,
            num_preemptions=scheduler.num_preemptions,
            prefix_queries=scheduler.prefix_queries,
            prefix_hits=scheduler.prefix_hits,
        )

    def _check_request(self, request: SequenceRequest) -> None:
        check_request(request, self.info)
        is_aside = request.id in self._ended or request.id in self._compiling
        if is_aside or request.id in self._scheduler:
            raise InvalidInput(f"A sequence with the id {request.id!r} is already here.")


def _refusal(sequence_id: str, message: str) -> SequenceOutput:
    return SequenceOutput(id=sequence_id, error=(InvalidInput.code, message))


def load_engine(
    files: ModelFiles, config: EngineConfig, progress: Progress | None = None
) -> EngineLike:
    """Load a model and make the engine of its task. Raises LoadError: it says what to do."""
    task = find_task(files, config.task)
    if task == "generate":
        return load_generator(files, config, progress)
    if config.tensor_parallel > 1:
        raise LoadError(f"A model for the task {task} is not shared; leave --tensor-parallel out.")
    from engine.pooling.loading import load_pooling_engine

    device = _prepare(config)
    with enough_memory("The model", device, _SMALLER):
        engine = load_pooling_engine(files, task, config, device, progress)
    _settle_garbage()
    give_back_memory()
    return engine


def load_generator(
    files: ModelFiles, config: EngineConfig, progress: Progress | None = None
) -> Engine:
    """Load a model that generates and make its engine. Raises LoadError as `load_engine` does."""
    device = _prepare(config)
    with enough_memory("The model", device, _SMALLER):
        load = _load_shared if config.tensor_parallel > 1 else _load_whole
        engine = load(files, config, device, progress)
    _settle_garbage()
    give_back_memory()
    return engine


def _load_whole(
    files: ModelFiles, config: EngineConfig, device: torch.device, progress: Progress | None
) -> Engine:
    checkpoint = open_checkpoint(files)
    _check_makes_text(files, checkpoint.config)
    dtype = choose_dtype(config, checkpoint.config, device)
    name = fingerprint(files, checkpoint.config)
    model = load_model(checkpoint, config, dtype, device, progress)
    return Engine(
        model,
        checkpoint.config,
        config,
        device=device,
        dtype=dtype,
        cache_dtype=choose_cache_dtype(config, dtype, device, is_rounded=model.is_rounded),
        name=name,
        reload=functools.partial(reload, files, config, name, dtype, device),
        load_tokenizer=lambda: load_vocabulary(files),
        graph_device=choose_graphs(config, model, device),
    )


def _load_shared(
    files: ModelFiles, config: EngineConfig, _device: torch.device, progress: Progress | None
) -> Engine:
    from engine.parallel.leader import load_parallel, no_reload

    whole = open_checkpoint(files).config
    _check_makes_text(files, whole)
    name = fingerprint(files, whole)
    model, part = load_parallel(files, config, progress)
    return Engine(
        model,
        part.config,
        config,
        device=part.device,
        dtype=part.dtype,
        cache_dtype=part.cache_dtype,
        name=name,
        reload=no_reload,
        load_tokenizer=lambda: load_vocabulary(files),
        graph_device=choose_graphs(config, model, part.device),
    )


def _check_makes_text(files: ModelFiles, config: ModelConfig) -> None:
    if not config.is_causal:
        raise LoadError(
            f"{files.name} looks at what is behind a token, so it makes no text; serve it with "
            "--task embed."
        )


def _prepare(config: EngineConfig) -> torch.device:
    """Set up threads and kernels as configured. Raises LoadError for a device that is not there."""
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    device = choose_device(config.device)
    prepare_kernels(config, device)
    return device


def _settle_garbage() -> None:
    gc.collect()
    gc.freeze()
