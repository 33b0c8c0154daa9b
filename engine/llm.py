"""The engine for Python programs: texts in, texts out, in one process. Knows no queue and no HTTP.

The shape is vLLM's, so that a script for its offline inference runs with another import. Importing
this loads no torch; making an `LLM` does.
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from engine.config import DTYPES, EngineConfig
from engine.llm_inputs import (
    Conversation,
    Params,
    Prompt,
    PromptInput,
    read_conversations,
    read_params,
    read_prompts,
)
from engine.llm_meter import Bar, Silent
from engine.llm_outputs import RequestOutput
from engine.llm_params import Roles, SamplingParams
from engine.llm_run import Request, run
from engine.messages import EngineLike
from engine.progress_bar import Bar as LoadingBar
from engine.text.text_model import TextModel, load_text_model
from engine.weights.files import BUILTIN, ModelFiles, ModelRef, resolve
from engine.weights.isq_settings import check_isq
from engine.weights.selection import Kind

UseTqdm = bool | Callable[..., Any]
_DEFAULTS = EngineConfig()


class LLM:
    """A model, loaded, with its KV cache. For one thread.

    `model`, `kind`, `file`, `revision`, `tokenizer` and `gqa` say which model, as `ModelRef` has
    them; `hf_token` is a token of the Hub, False for none, None for the one of this machine.
    `dtype` takes `auto`, `float32`, `bfloat16`, `float16` and their usual short forms.
    `max_model_len` None is the model's own context; at most `max_num_seqs` answers are written at a
    time, the others wait. `gpu_memory_utilization` is the share of the device's memory that may be
    filled (None: 0.9 of a GPU's), or `kv_cache_memory_bytes` what keys and values take. `isq` is a
    type that the weights are quantised to as they are loaded (`Q4K`, `8`), `imatrix` and `topology`
    are files for that. `seed` settles what is drawn where a request has none of its own.
    `enforce_eager`: no CUDA graphs. Raises LoadError: one sentence that says what to do.

    >>> from engine import LLM, SamplingParams
    >>> llm = LLM(model="builtin", dtype="float32")
    >>> [answer] = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=4))
    >>> len(answer.outputs[0].token_ids), answer.outputs[0].finish_reason
    (4, 'length')
    """

    def __init__(
        self,
        model: str | Path = BUILTIN,
        *,
        kind: Literal["auto"] | Kind = "auto",
        file: str | None = None,
        tokenizer: str | Path | None = None,
        revision: str | None = None,
        hf_token: str | Literal[False] | None = None,
        gqa: int = 1,
        device: str = "auto",
        dtype: str = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int = _DEFAULTS.max_seqs,
        max_num_batched_tokens: int | None = None,
        gpu_memory_utilization: float | None = None,
        kv_cache_memory_bytes: int = 0,
        block_size: int = _DEFAULTS.block_size,
        enable_prefix_caching: bool = True,
        num_threads: int = 0,
        isq: str | None = None,
        imatrix: str | Path | None = None,
        topology: str | Path | None = None,
        seed: int = 0,
        enforce_eager: bool = False,
    ) -> None:
        ref = ModelRef(
            model=str(model),
            kind=kind,
            file=file,
            revision=revision,
            token_source=_token_source(hf_token),
            tokenizer=None if tokenizer is None else str(tokenizer),
            gqa=gqa,
        )
        config = EngineConfig(
            task="generate",
            device=device,
            dtype=DTYPES.get(dtype, dtype),
            max_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens
            or max(_DEFAULTS.max_num_batched_tokens, max_num_seqs),
            max_model_len=max_model_len or 0,
            block_size=block_size,
            kv_cache_bytes=kv_cache_memory_bytes,
            memory_usage=gpu_memory_utilization or 0.0,
            enable_prefix_cache=enable_prefix_caching,
            num_threads=num_threads,
            isq=isq or "",
            imatrix=str(imatrix or ""),
            topology=str(topology or ""),
            enforce_eager=enforce_eager,
        )
        check_isq(config)
        with closing(LoadingBar(f"Downloading {ref.model}")) as bar:
            files = resolve(ref, bar)
        self._text: TextModel = load_text_model(files)
        self._engine = _load(files, config)
        self._seeds = random.Random(seed)
        self._numbers = itertools.count()

    def generate(
        self,
        prompts: PromptInput | Sequence[PromptInput],
        sampling_params: Params | None = None,
        use_tqdm: UseTqdm = True,
    ) -> list[RequestOutput]:
        """Continue one prompt or several; the outputs are in the order of the prompts.

        A prompt is a text, `{"prompt": text}` or `{"prompt_token_ids": ids}`. `sampling_params` is
        one for all or one for each; None is `get_default_sampling_params()`. `use_tqdm` may be a
        function that makes the bar. Raises InvalidInput or PromptTooLong before anything runs, with
        a note of the prompt's number. After a KeyboardInterrupt the LLM can be used as before.
        """
        return self._run(read_prompts(prompts, self._text), sampling_params, use_tqdm)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: Params | None = None,
        use_tqdm: UseTqdm = True,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation or several, by the model's chat template or the one given here.

        `chat_template_kwargs` are variables of the template's own (`enable_thinking`). The rest is
        as in `generate`.
        """
        prompts = read_conversations(
            messages,
            self._text,
            chat_template,
            **{
                **(chat_template_kwargs or {}),
                "tools": tools,
                "add_generation_prompt": add_generation_prompt,
            },
        )
        return self._run(prompts, sampling_params, use_tqdm)

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's makers recommend, in the place of values that a caller does not name."""
        return SamplingParams.of_model(self._text.defaults)

    def _run(
        self, prompts: list[Prompt], params: Params | None, use_tqdm: UseTqdm
    ) -> list[RequestOutput]:
        settled = read_params(
            self.get_default_sampling_params() if params is None else params, len(prompts)
        )
        requests = [self._request(*pair) for pair in zip(prompts, settled, strict=True)]
        tokenizer, vocab_size = self._text.tokenizer, self._engine.info.vocab_size
        # Some configurations name an end that the model cannot make.
        end_ids = tuple(sorted(i for i in tokenizer.eos_ids if i < vocab_size))
        roles = Roles(end_ids, self._text.defaults.never_ids(vocab_size))
        with closing(_meter(use_tqdm, len(requests))) as meter:
            run(self._engine, tokenizer, roles, requests, meter)
        return [request.output(tokenizer) for request in requests]

    def _request(self, prompt: Prompt, params: SamplingParams) -> Request:
        drawn = self._seeds.getrandbits(63)  # always, so that one request's seed moves no other's
        seed = drawn if params.seed is None else params.seed
        return Request(str(next(self._numbers)), prompt, params, seed)


def _load(files: ModelFiles, config: EngineConfig) -> EngineLike:
    from engine.engine import load_engine

    with closing(LoadingBar(f"Loading {files.name}")) as bar:
        return load_engine(files, config, bar)


def _token_source(token: str | Literal[False] | None) -> str:
    if token is None:
        return "cache"
    return f"literal:{token}" if token else "none"


def _meter(use_tqdm: UseTqdm, num_requests: int) -> Bar | Silent:
    if not use_tqdm:
        return Silent()
    return Bar(tqdm if use_tqdm is True else use_tqdm, num_requests)
