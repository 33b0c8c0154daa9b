"""Small models through the whole engine on the device, against the same engine on the CPU.

What is compared are log-probabilities of prompts, relative to their spread, and tokens: all of them
where the device calculates in float32 too.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from engine.config import EngineConfig, SamplingParams
from engine.engine import load_engine
from engine.messages import EngineLike, SequenceOutput, SequenceRequest
from engine.weights.files import BUILTIN, ModelFiles, ModelRef, resolve
from tests.bench.cpu_files import SHAPES, write_random
from tests.bench.on_gpu.probe import relative_error
from tests.bench.on_gpu.row import Row, State
from tests.bench.on_gpu.setting import Case, Setting

PART = "smoke"
EXACT, ROUNDED, COARSE = 1e-3, 5e-2, 2e-1  # float32, bfloat16, keys and values in e4m3
_LEAST_SAME = 0.9  # of tokens in float32: two that are as good may change places, and all behind
_NUM_TOKENS = 12
_PROMPTS = (5, 33, 70, 17, 40, 9, 21)
# Of each prompt how it goes on. Those that run last are sampled in the graphs, so that a GPU is
# told their steps ahead; while the first ones run it never is.
_PARAMS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.0, "num_logprobs": 2},
    {"temperature": 0.0, "repetition_penalty": 1.2, "presence_penalty": 0.3},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.01},
    {"temperature": 0.0},
    {"temperature": 1.0},
)


class Try(NamedTuple):
    """A model, what is asked of EngineConfig for it on both sides and on the device alone."""

    files: Callable[[Path], ModelFiles]
    bound: float
    both: Mapping[str, Any] = {}
    device: Mapping[str, Any] = {}


def cases(setting: Setting) -> list[Case]:
    """What most people run first."""
    exact = {"builtin, float32": Try(_builtin, EXACT, device={"dtype": "float32"})}
    tries = exact if setting.is_tiny else {**exact, **_tries(setting.device.type == "cuda")}
    found = [Case(name, partial(_compared, setting, name, each)) for name, each in tries.items()]
    found.insert(1, Case("grammar", partial(_grammar, setting)))
    embedders = {"vectors, builtin": _builtin, "vectors, BERT": _encoder}
    for name in list(embedders)[: setting.of_scale(2, 1)]:
        found.append(Case(name, partial(_vectors, setting, name, embedders[name])))
    return found


def _tries(is_gpu: bool) -> dict[str, Try]:
    """On a GPU also in types that the CPU's side has not; without a type it is bfloat16 there."""
    exact = {"dtype": "float32"}
    of_gpus = {
        "builtin, bfloat16": Try(_builtin, ROUNDED),
        "builtin, e4m3 cache": Try(_builtin, COARSE, device={"kv_cache_dtype": "fp8"}),
        "builtin, float16": Try(_builtin, ROUNDED, device={"dtype": "float16"}),
        "builtin, not paged": Try(_builtin, ROUNDED, device={"paged_attn": False}),
    }
    return {
        "GGUF in Q4_K_M": Try(partial(_gguf, "Q4_K_M"), ROUNDED),
        "GGUF in Q8_0": Try(partial(_gguf, "Q8_0"), ROUNDED),
        **(of_gpus if is_gpu else {}),
        "builtin, ISQ Q4K": Try(_builtin, ROUNDED, {"isq": "Q4K"}),
        "Mixtral, float32": Try(partial(_checkpoint, "mixtral"), EXACT, device=exact),
        "Qwen3 MoE, ISQ Q8_0": Try(
            partial(_checkpoint, "qwen3-moe", moe_intermediate_size=64), ROUNDED, {"isq": "Q8_0"}
        ),
        "Gemma 2, float32": Try(partial(_checkpoint, "gemma2"), EXACT, device=exact),
        "Qwen3, float32": Try(partial(_checkpoint, "qwen3"), EXACT, device=exact),
        "Phi, float32": Try(partial(_checkpoint, "phi"), EXACT, device=exact),
    }


def _builtin(_directory: Path) -> ModelFiles:
    return resolve(ModelRef(model=BUILTIN))


def _gguf(mixture: str, directory: Path) -> ModelFiles:
    path = write_random(directory / f"model-{mixture}.gguf", SHAPES["tiny"], mixture)
    return resolve(ModelRef(model=str(path)))


def _checkpoint(recipe: str, directory: Path, **changes: Any) -> ModelFiles:
    from tests.engine.models.tiny import make_model

    make_model(recipe, **changes).save_pretrained(directory)
    return resolve(ModelRef(model=str(directory)))


def _encoder(directory: Path) -> ModelFiles:
    from tests.engine.pooling.tiny_encoders import EMBEDDERS, make, save

    return resolve(ModelRef(model=str(save(make(EMBEDDERS["bert"]), directory))))


def _config(setting: Setting, asked: Mapping[str, Any], *, is_device: bool) -> EngineConfig:
    """Small steps: prompts come in pieces, beside sequences that decode."""
    given: dict[str, Any] = {
        "device": str(setting.device) if is_device else "cpu",
        "dtype": "bfloat16" if is_device and setting.device.type == "cuda" else "float32",
        "cpu_activations": "float",
        "kv_cache_bytes": 64 << 20,
        "kv_cache_dtype": "auto",
        "max_seqs": 4,
        "max_num_batched_tokens": 64,
        "max_model_len": 128,
    }
    of_run = setting.engine if is_device else {}
    return msgspec.convert({**given, **asked, **of_run}, EngineConfig)


def _compared(setting: Setting, name: str, each: Try) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as directory:
        files = each.files(Path(directory))
        there = _config(setting, each.both, is_device=False)
        here = _config(setting, {**each.both, **each.device}, is_device=True)
        expected, made = (_run(load_engine(files, config)) for config in (there, here))
    error = relative_error(_centred(made.logprobs), _centred(expected.logprobs))
    same = float((made.ids == expected.ids).double().mean())
    is_right = error <= each.bound and (each.bound > EXACT or same >= _LEAST_SAME)
    yield Row(
        part=PART,
        name=name,
        state=_state(is_right),
        error=error,
        bound=each.bound,
        note=f"log-probabilities of prompts; {100 * same:.0f} % of tokens are the CPU's",
    )


def _state(is_right: bool) -> State:
    return "checked" if is_right else "wrong"


def _centred(numbers: Tensor) -> Tensor:
    return numbers - numbers.mean()


class _Made(NamedTuple):
    """Log-probabilities of all prompts, float64, and the tokens behind each, [prompts, tokens]."""

    logprobs: Tensor
    ids: Tensor


def _run(engine: EngineLike) -> _Made:
    vocab = engine.info.vocab_size
    for index, (length, params) in enumerate(zip(_PROMPTS, _PARAMS, strict=True)):
        prompt = [(7 + 31 * index + 17 * place) % vocab for place in range(length)]
        settled = SamplingParams(
            max_tokens=_NUM_TOKENS, seed=index, ignore_eos=True, num_prompt_logprobs=0, **params
        )
        engine.add(SequenceRequest(id=str(index), prompt_ids=prompt, params=settled))
    logprobs: list[float] = []
    ids: dict[str, list[int]] = {str(index): [] for index in range(len(_PROMPTS))}
    outputs = sorted(_outputs(engine), key=lambda output: output.id)
    for output in outputs:
        logprobs += [each.logprob for each in output.prompt_logprobs]
        ids[output.id] += output.token_ids
    return _Made(torch.tensor(logprobs, dtype=torch.float64), torch.tensor(list(ids.values())))


def _outputs(engine: EngineLike) -> Iterator[SequenceOutput]:
    while engine.has_work():
        for output in engine.step():
            assert output.error is None, output.error
            yield output


def _grammar(setting: Setting) -> Iterator[Row]:
    """Texts that follow a pattern, drawn: the same ones on both sides."""
    from engine import LLM, SamplingParams as Params, StructuredOutputsParams

    form = StructuredOutputsParams(regex="[A-Z][a-z]{2,8} [0-9]{3,5}")
    params = Params(temperature=0.8, seed=3, max_tokens=24, structured_outputs=form)
    texts = []
    for device in ("cpu", str(setting.device)):
        llm = LLM(device=device, dtype="float32", kv_cache_memory_bytes=64 << 20)
        outputs = llm.generate(["Once upon a time", "My number is"], params, use_tqdm=False)
        texts.append([output.outputs[0].text for output in outputs])
    is_same = texts[0] == texts[1]
    note = f"{texts[1]}" + ("" if is_same else f", on the CPU {texts[0]}")
    yield Row(part=PART, name="grammar", state=_state(is_same), note=note)


def _vectors(
    setting: Setting, name: str, make_files: Callable[[Path], ModelFiles]
) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as directory:
        files, task = make_files(Path(directory)), {"task": "embed", "max_model_len": 0}
        configs = [_config(setting, task, is_device=is_device) for is_device in (False, True)]
        there, here = (_embedded(load_engine(files, config)) for config in configs)
    error = relative_error(here, there.double())
    state = _state(error <= ROUNDED)
    yield Row(part=PART, name=name, state=state, error=error, bound=ROUNDED)


def _embedded(engine: EngineLike) -> Tensor:
    """The vectors of some texts, one below the other."""
    params = SamplingParams(max_tokens=0)
    for index, length in enumerate(_PROMPTS):
        ids = [(5 + 13 * place + index) % 100 for place in range(length)]
        engine.add(SequenceRequest(id=str(index), prompt_ids=ids, params=params))
    outputs = sorted(_outputs(engine), key=lambda output: output.id)
    vectors = [torch.frombuffer(bytearray(o.vector), dtype=torch.float32) for o in outputs]
    return torch.stack(vectors)
