"""Which format keys and values have, and that an engine keeps them in it."""

import pytest
import torch

from engine.config import EngineConfig, SamplingParams
from engine.device import choose_cache_dtype
from engine.engine import load_engine
from engine.errors import LoadError
from engine.messages import SequenceRequest
from engine.weights.files import ModelRef, resolve
from kernels.packing import has_kernels

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_halves_them_only_where_a_cpus_products_round_their_inputs():
    def auto(dtype, device, is_rounded):
        return choose_cache_dtype(EngineConfig(), dtype, device, is_rounded=is_rounded)

    if has_kernels():
        assert auto(torch.float32, CPU, True) == torch.float16
    assert auto(torch.float32, CPU, False) == torch.float32
    assert auto(torch.bfloat16, CPU, True) == torch.bfloat16
    assert auto(torch.float32, CUDA, True) == torch.float32


def test_what_is_asked_for_is_taken_or_refused():
    half, full = (EngineConfig(kv_cache_dtype=name) for name in ("float16", "float32"))
    assert choose_cache_dtype(half, torch.float32, CPU, is_rounded=False) == torch.float16
    assert choose_cache_dtype(full, torch.float32, CPU, is_rounded=True) == torch.float32
    assert choose_cache_dtype(half, torch.float16, CUDA, is_rounded=False) == torch.float16
    for config, dtype, device in ((full, torch.bfloat16, CPU), (half, torch.float32, CUDA)):
        with pytest.raises(LoadError, match="ask for auto"):
            choose_cache_dtype(config, dtype, device, is_rounded=False)


def test_eight_bits_are_for_half_precision_on_a_gpu():
    config = EngineConfig(kv_cache_dtype="fp8")
    for dtype in (torch.bfloat16, torch.float16):
        chosen = choose_cache_dtype(config, dtype, CUDA, is_rounded=False)
        assert chosen == torch.float8_e4m3fn
    for dtype, device in ((torch.float32, CUDA), (torch.bfloat16, CPU)):
        with pytest.raises(LoadError, match="--kv-cache-dtype fp8 is not for a model in"):
            choose_cache_dtype(config, dtype, device, is_rounded=False)


def test_an_engine_answers_alike_with_both(tmp_path):
    def answer(kv_cache_dtype):
        config = EngineConfig(
            device="cpu", kv_cache_dtype=kv_cache_dtype, kv_cache_bytes=1 << 20, max_model_len=64
        )
        engine = load_engine(resolve(ModelRef(model="builtin")), config)
        params = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
        engine.add(SequenceRequest(id="a", prompt_ids=list(range(10, 30)), params=params))
        ids = []
        while engine.has_work():
            for output in engine.step():
                ids += output.token_ids
        return ids, engine.info.kv_tokens

    (halves, num_halves), (whole, num_whole) = answer("float16"), answer("float32")
    assert num_halves == 2 * num_whole
    assert halves == whole
