"""Every family on a pretended CUDA device: nothing is mixed, and tokens are those of the CPU."""

import pytest
from gguf import GGMLQuantizationType as Type

from engine.config import EngineConfig
from engine.engine import load_generator
from engine.quant.names import ISQ_NAMES
from engine.weights.files import ModelRef, resolve
from kernels import interpreter
from tests.engine.hash_model import drain, ids_of, request
from tests.engine.models import tiny
from tests.engine.models.gguf_files import write_gguf
from tests.engine.models.recipes_phi import ROPE_SWITCH
from tests.engine.models.test_gguf_families import WIDE
from tests.engine.pretend_cuda import pretend_cuda
from tests.engine.twins import twins_on_cuda

pytestmark = pytest.mark.skipif(
    not interpreter.is_interpreting(), reason="kernels of this process compile"
)
# One that decodes beside the other's prompt, which is cut in two; then both decode.
PROMPTS = (tiny.prompts()[1], tiny.prompts()[2][:22])
# What differs in kind; the others run by night.
FAMILIES = (
    *("llama", "llama3", "mistral", "qwen2-window", "qwen3", "gemma2", "gemma3", "phi-qk-norm"),
    *("phi3-long", "starcoder2", "mixtral", "qwen3-moe-mixed", "smollm3-window", "olmo2"),
)
# gguf-py lists whole numbers too, and cannot pack Q8_1 as a file would have it.
BLOCKS = [kind for kind in Type if "_" in kind.name or kind.name.endswith("FP4")]
BLOCKS.remove(Type.Q8_1)


def nightly(names, kept):
    """Those that are not `kept` run by night."""
    return [
        name if name in kept else pytest.param(name, marks=pytest.mark.nightly) for name in names
    ]


def tokens(path, device, prompts=PROMPTS, when_loaded=lambda: None, **changes):
    settings = {
        "device": device,
        "dtype": "float32",
        "max_seqs": 2,
        "max_num_batched_tokens": 16,
        "kv_cache_bytes": 1 << 22,
        "cpu_activations": "float",
    }
    engine = load_generator(resolve(ModelRef(model=str(path))), EngineConfig(**settings | changes))
    when_loaded()
    for number, prompt in enumerate(prompts):
        engine.add(request(prompt, id=str(number), max_tokens=4, ignore_eos=True))
    return {key: ids_of(outputs) for key, outputs in drain(engine).items()}


def check(path, **changes):
    """What ran, and what was waited for once the model was loaded."""
    expected = tokens(path, "cpu", **changes)
    with twins_on_cuda() as cuda:
        when_loaded = cuda.waits.clear
        assert tokens(path, "cuda:0", when_loaded=when_loaded, **changes) == expected
    return cuda


def num_products(launches):
    """Of packed weights, however many inputs they had."""
    names = ("_vector_kernel", "_few_kernel", "_packed_linear_kernel", "_hqq_few_kernel")
    return sum(launches[name] for name in names)


@pytest.mark.parametrize("name", nightly(tiny.RECIPES, FAMILIES))
def test_a_family_has_the_tokens_of_the_cpu_and_no_step_waits_twice(name, checkpoints):
    cuda = check(checkpoints(name))
    assert cuda.launches["_paged_attention_kernel"]
    assert cuda.launches["_decode_attention_kernel"]
    num_steps = 5  # four tokens each, the second's prompt is through a step later
    assert cuda.waits == {"to the host": num_steps}


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "fp8"])
@pytest.mark.parametrize(
    "name", nightly(tiny.RECIPES, ("qwen3", "gemma3", "phi3-long", "mixtral", "starcoder2"))
)
def test_a_family_runs_in_half_precision(name, kv_cache_dtype, checkpoints):
    changes = {"dtype": "bfloat16", "kv_cache_dtype": kv_cache_dtype}
    with twins_on_cuda() as cuda:
        made = tokens(checkpoints(name), "cuda:0", **changes)
    assert [len(ids) for ids in made.values()] == [4, 4]
    assert cuda.launches["_decode_attention_kernel"]


def test_tokens_across_longropes_switch_are_those_of_the_cpu(checkpoints):
    prompts = [tiny.prompts()[-1][: ROPE_SWITCH + more] for more in (-2, 1)]
    check(checkpoints("phi3-long"), prompts=prompts, max_num_batched_tokens=128)


@pytest.mark.parametrize(
    "kind",
    nightly(BLOCKS, (Type.Q4_0, Type.Q4_K, Type.Q3_K, Type.IQ2_S, Type.MXFP4)),
    ids=lambda kind: kind.name,
)
def test_a_gguf_file_has_the_tokens_of_the_cpu(kind, tmp_path):
    path = write_gguf(tiny.make_model("llama3", **WIDE), tmp_path / "model.gguf", kind)
    launches = check(path).launches
    is_unpacked = kind is Type.NVFP4
    assert bool(launches["_packed_rows_kernel"]) is not is_unpacked
    assert bool(num_products(launches)) is not is_unpacked


@pytest.mark.parametrize("isq", nightly(ISQ_NAMES, ("Q4K", "FP8", "HQQ4")))
def test_a_model_quantised_as_it_is_loaded_has_the_tokens_of_the_cpu(isq, tmp_path):
    tiny.make_model("qwen3", **{**WIDE, "head_dim": 32}).save_pretrained(tmp_path)
    assert num_products(check(tmp_path, isq=isq).launches)


@pytest.mark.parametrize(("name", "kind"), [("mixtral", Type.Q4_K), ("qwen3-moe", Type.Q8_0)])
def test_packed_experts_have_the_tokens_of_the_cpu(name, kind, tmp_path):
    path = write_gguf(tiny.make_model(name, **WIDE), tmp_path / "model.gguf", kind)
    cuda = check(path)
    assert cuda.launches["_packed_grouped_linear_kernel"]
    assert "_grouped_linear_kernel" not in cuda.launches


@pytest.mark.nightly
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["qwen3-window", "mixtral"])
def test_kernels_that_are_interpreted_give_the_same_tokens_on_packed_weights(name, tmp_path):
    path = write_gguf(tiny.make_model(name, **WIDE), tmp_path / "model.gguf", Type.Q4_K)
    expected = tokens(path, "cpu")
    with pretend_cuda() as cuda:
        assert tokens(path, "cuda:0") == expected
    assert num_products(cuda.launches)
