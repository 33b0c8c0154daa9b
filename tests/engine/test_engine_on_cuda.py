"""The engine on a pretended CUDA device: sampling of every kind, the cache, sizes, new weights."""

import math
import random
from typing import Any

import msgspec
import pytest
import torch

from engine import LLM, SamplingParams, StructuredOutputsParams
from engine.batch import as_one_copy
from engine.config import DryParams, EngineConfig
from engine.engine import load_generator
from engine.errors import LoadError
from engine.weights.files import ModelRef, resolve
from kernels import interpreter
from tests.engine import tiny_llama
from tests.engine.hash_model import drain, ids_of, request
from tests.engine.pretend_cuda import pretend_cuda
from tests.engine.test_requantize_models import change
from tests.engine.twins import twins_on_cuda

pytestmark = pytest.mark.skipif(
    not interpreter.is_interpreting(), reason="kernels of this process compile"
)
PROMPT = [5, 90, 33, 7, 61]
DRAWN: dict[str, Any] = {"temperature": 0.8, "seed": 3}
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": DRAWN,
    "a seed of 64 bits": {"temperature": 1.0, "seed": 2**64 - 5},
    "top_k": {**DRAWN, "top_k": 7},
    "top_p": {**DRAWN, "top_p": 0.7},
    "min_p": {**DRAWN, "min_p": 0.1},
    "all filters": {**DRAWN, "top_k": 30, "top_p": 0.9, "min_p": 0.02},
    "penalties": {
        **{"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.3},
        "output_ids": [9, 9, 4],
    },
    "bias": {"logit_bias": {3: 5.0, 9: -4.0}},
    "dry": {"dry": DryParams(multiplier=0.8, allowed_length=1)},
    "bad words": {"bad_words": ((62,), (14, 115))},
    "allowed ids": {"allowed_token_ids": (3, 4, 5, 6)},
    "min_tokens": {"min_tokens": 4, "stop_token_ids": (62, 88)},
    "logprobs": {"num_logprobs": 3},
    "logprobs of the token alone": {"num_logprobs": 0},
    "prompt logprobs": {"num_prompt_logprobs": 2},
}
NUM_TOKENS = 6


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_llama.write(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def make_engine(files):
    base = EngineConfig(
        device="cpu",
        dtype="float32",
        max_seqs=len(KINDS),
        max_num_batched_tokens=128,
        kv_cache_bytes=1 << 20,
    )
    return lambda **changes: load_generator(files, msgspec.structs.replace(base, **changes))


@pytest.fixture
def cuda():
    with twins_on_cuda(num_devices=2) as mode:
        yield mode


def run(engine, kinds):
    for kind in kinds:
        engine.add(request(PROMPT, id=kind, max_tokens=NUM_TOKENS, **KINDS[kind]))
    return drain(engine)


@pytest.fixture(scope="module")
def on_cpu(make_engine):
    return run(make_engine(), KINDS)


def described(outputs):
    """Log-probabilities, own and best, one after the other."""
    told = [each for output in outputs for each in (*output.prompt_logprobs, *output.logprobs)]
    return [(each.logprob, *(value for _, value in each.top)) for each in told]


def check(outputs, expected):
    assert ids_of(outputs) == ids_of(expected)
    torch.testing.assert_close(described(outputs), described(expected), rtol=1e-4, atol=1e-4)


# Beside the ids: a token's log-probabilities and the ids of the best.
WAITS = {"logprobs": 3, "logprobs of the token alone": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_is_the_cpu_s_and_a_step_waits_once_for_the_device(
    kind, make_engine, on_cpu, cuda
):
    engine = make_engine(device="cuda:0")
    cuda.waits.clear()  # of the weights' way to the device
    outputs = run(engine, [kind])
    check(outputs[kind], on_cpu[kind])
    waits = WAITS.get(kind, 1) * sum(bool(output.token_ids) for output in outputs[kind])
    assert cuda.waits == {"to the host": waits + 2 * (kind == "prompt logprobs")}


def test_all_kinds_of_sampling_go_together(make_engine, on_cpu, cuda):
    for kind, outputs in run(make_engine(device="cuda:0"), KINDS).items():
        check(outputs, on_cpu[kind])


@pytest.mark.nightly
def test_the_kernels_themselves_sample_as_the_cpu_does(make_engine, on_cpu):
    with pretend_cuda():
        for kind, outputs in run(make_engine(device="cuda:0"), KINDS).items():
            check(outputs, on_cpu[kind])


FORMS: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"regex": "(yes|no), [a-z]{3,9}"}, {}),
    ({"choice": ["one", "two", "three"]}, {}),
    ({"json_object": True}, {"temperature": 1.0, "max_tokens": 20}),
)


def test_what_grammars_forbid_is_forbidden_there_too(cuda):
    params = [
        SamplingParams(
            structured_outputs=StructuredOutputsParams(**form),
            **{"temperature": 0.0, "max_tokens": 12, "seed": 1, **more},
        )
        for form, more in FORMS
    ]
    prompts = ["Once upon a time"] * len(params)
    made = []
    for device in ("cpu", "cuda:0"):
        llm = LLM(model="builtin", device=device, dtype="float32", max_model_len=64)
        made.append([o.outputs[0].text for o in llm.generate(prompts, params, use_tqdm=False)])
    assert made[0] == made[1]
    assert made[1][1] in ("one", "two", "three")


def test_a_prompt_in_the_cache_is_not_computed_again(make_engine, on_cpu, cuda):
    engine = make_engine(device="cuda:0", block_size=4)
    for _ in range(2):
        check(run(engine, ["logprobs"])["logprobs"], on_cpu["logprobs"])
    assert engine.stats().prefix_hits


@pytest.mark.parametrize("changes", [{"paged_attn": False}, {"enable_prefix_cache": False}])
def test_other_ways_to_hold_the_cache_give_the_same(changes, make_engine, on_cpu, cuda):
    engine = make_engine(device="cuda:0", **changes)
    check(run(engine, ["all filters"])["all filters"], on_cpu["all filters"])


def test_preempted_sequences_go_on_as_if_nothing_had_happened(make_engine, cuda):
    crowd = {str(i): [7 * i + j for j in range(1, 12)] for i in range(6)}
    engines = make_engine(), make_engine(device="cuda:0", kv_cache_bytes=10 * 6144, block_size=16)
    made = []
    for engine in engines:
        for name, prompt in crowd.items():
            engine.add(request(prompt, id=name, max_tokens=24, ignore_eos=True, **DRAWN))
        made.append({name: ids_of(outputs) for name, outputs in drain(engine).items()})
    assert engines[1].stats().num_preemptions
    assert made[0] == made[1]


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1"])
def test_a_device_is_chosen_by_number_and_kernels_are_launched_there(
    device, make_engine, on_cpu, cuda
):
    engine = make_engine(device=device)
    number = 1 if device == "cuda:1" else 0
    assert engine.info.device == f"cuda:{number}"
    assert cuda.current == number
    check(run(engine, ["drawn"])["drawn"], on_cpu["drawn"])


def test_a_device_past_the_last_is_refused(make_engine, cuda):
    with pytest.raises(LoadError, match="cuda:2"):
        make_engine(device="cuda:2")


def test_the_cache_gets_what_the_largest_step_leaves(make_engine, on_cpu, cuda):
    engine = make_engine(device="cuda:0", kv_cache_bytes=0)
    assert engine.info.kv_tokens > len(KINDS) * tiny_llama.CONTEXT_LENGTH
    check(run(engine, ["top_p"])["top_p"], on_cpu["top_p"])


def test_new_weights_come_between_two_steps(cuda):
    def load(isq):
        config = EngineConfig(device="cuda:0", isq=isq, max_seqs=4, kv_cache_bytes=8_000_000)
        return load_generator(resolve(ModelRef(model="builtin")), config)

    def write(engine):
        engine.add(request(PROMPT, max_tokens=8, ignore_eos=True))
        return ids_of(drain(engine)["a"])

    engine = load("")
    before = write(engine)
    assert change(engine, "Q4_0", {}) == ""
    assert write(engine) == write(load("Q4_0")) != before


def test_a_server_s_work_compiles_each_kernel_for_its_tiles_alone(make_engine, cuda):
    """A kernel that is compiled anew holds up everyone for a second, in the midst of work."""
    engine = make_engine(device="cuda:0", dtype="float16", max_seqs=12, max_num_batched_tokens=64)
    rng = random.Random(0)
    for number in range(10):
        prompt = [rng.randrange(3, 100) for _ in range(rng.randrange(1, 80))]
        params: dict[str, Any] = {
            "temperature": rng.choice([0.0, 1.0]),
            "max_tokens": rng.randrange(1, 40),
        }
        engine.add(request(prompt, id=str(number), seed=number, **params))
    drain(engine)
    tiles = {
        "_paged_attention_kernel": 2,
        **{"_decode_attention_kernel": 2, "_merge_splits_kernel": 3},
        **{"_sample_kernel": 2, "_choose_kernel": 3},  # arguments may be parts of a table's rows
    }
    for kernel, variants in cuda.variants.items():
        assert len(variants) <= tiles.get(kernel, 1), kernel


def test_tensors_that_travel_together_begin_where_kernels_can_read_fast(cuda):
    arrays = [torch.arange(size, dtype=torch.int32).numpy() for size in (3, 0, 5, 4)]
    tensors = as_one_copy(tuple(arrays), torch.device("cuda:0"))
    assert not cuda.waits
    assert [tensor.storage_offset() * 4 % 16 for tensor in tensors] == [0] * 4
    assert [tensor.tolist() for tensor in tensors] == [array.tolist() for array in arrays]
    assert math.prod(tensors[1].shape) == 0
