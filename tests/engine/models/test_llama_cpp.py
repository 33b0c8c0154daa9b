"""Logits and greedy tokens against llama.cpp's own, from the same tiny files.

What its processor kernels round, so that the logits cannot be equal: the activations that meet
F16 and Q8_0 weights, to the same type; GELU, by a table of float16.
"""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from transformers import GenerationConfig

from engine.layers.linear import Linear
from engine.weights.gguf_metadata import PLAIN_TYPES
from kernels import ops
from tests.engine.llama_cpp_peer import LlamaCpp, library
from tests.engine.models import tiny
from tests.engine.models.gguf_files import write_gguf
from tests.engine.models.paged import PagedModel

pytestmark = pytest.mark.nightly

NUM_TOKENS = 32
NAMES = (
    *("llama", "llama3", "llama-linear", "llama-yarn", "llama-bias", "mistral-full"),
    *("mixtral-full", "qwen2", "qwen3", "qwen3-moe", "smollm3", "olmo2", "olmo2-linear"),
    *("gemma", "gemma-mqa", "gemma2", "gemma2-tight", "gemma3", "gemma3-linear", "gemma3-capped"),
    *("phi", "phi3", "phi3-partial", "starcoder2"),
)
# Types of weights; Q8_1 and Q8_K are for activations.
MULTIPLIED = [kind for kind in GGML_QUANT_SIZES if kind not in {*PLAIN_TYPES, Type.Q8_1, Type.Q8_K}]
# Whose layers are of two kinds, listed in the recipe.
LISTED = ("gemma3-linear", "gemma3-capped")
# Without what llama.cpp has no tensors for, and with bounds on logits that leave one the largest.
CHANGES: dict[str, dict[str, float]] = {
    "gemma2-tight": {"final_logit_softcapping": 20.0},
    "gemma3-capped": {"final_logit_softcapping": 20.0},
    "gemma3-linear": {"attention_bias": False},
    "olmo2-linear": {"attention_bias": False, "tie_word_embeddings": False},
}


@pytest.fixture(autouse=True, scope="module")
def _installed():
    library()


def make_file(directory, name, kind, describe=lambda _: None, **changes):
    """transformers' model and a file of it with a tokenizer that llama.cpp can read."""

    def with_merges(writer):
        writer.add_token_merges(["t o"])
        describe(writer)

    changes = {"moe_intermediate_size": 64, **CHANGES.get(name, {}), **changes}
    model = tiny.make_model(name, **changes)
    path = directory / "model.gguf"
    write_gguf(model, path, kind, describe=with_merges)
    return model, path


def some_ids(length):
    return torch.randint(0, 320, (length,), generator=torch.Generator().manual_seed(3)).tolist()


def likeness(path, load_model, length, context_length=256, prepare=lambda model: model):
    """The cosine of our logits and llama.cpp's at each position."""
    ids = some_ids(length)
    theirs = LlamaCpp(path, context_length).logits(ids)
    ours = PagedModel(prepare(load_model(path))).prefill(ids, chunk=16)
    assert 0.1 < theirs.std() < 100, "the logits would not show an error"
    return torch.cosine_similarity(ours.double(), theirs.double(), dim=-1)


@pytest.mark.parametrize("length", [20, 70])
@pytest.mark.parametrize("name", NAMES)
def test_an_unpacked_file_has_llama_cpps_logits(name, length, tmp_path, load_model):
    _, path = make_file(tmp_path, name, Type.F32)
    assert likeness(path, load_model, length).min() >= 0.99999


@pytest.mark.parametrize("name", NAMES)
def test_an_f16_file_has_llama_cpps_logits_and_tokens(name, tmp_path, load_model):
    model, path = make_file(tmp_path, name, Type.F16)
    assert likeness(path, load_model, 70).min() >= 0.9999
    prompt, expected = least_doubtful(model)
    assert LlamaCpp(path).greedy(prompt, NUM_TOKENS) == expected
    assert greedy(PagedModel(load_model(path)), prompt) == expected


def least_doubtful(model):
    """Of many prompts the one whose answer by transformers depends least on rounding."""
    ids = torch.randint(0, 320, (64, 8), generator=torch.Generator().manual_seed(5))
    model.generation_config.eos_token_id = None
    options = GenerationConfig(
        max_new_tokens=NUM_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    made = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=options)
    first, second = torch.stack(made.scores).topk(2).values.unbind(-1)
    distances = (first - second).min(dim=0).values
    best = distances.argmax()
    assert distances[best] > 0.02 * torch.stack(made.scores).std()
    return ids[best].tolist(), made.sequences[best, 8:].tolist()


def greedy(model, prompt):
    blocks = model.blocks_for(len(prompt) + NUM_TOKENS)
    made = [int(model.step([(prompt, 0, blocks)])[-1].argmax())]
    while len(made) < NUM_TOKENS:
        place = len(prompt) + len(made) - 1
        made.append(int(model.step([([made[-1]], place, blocks)])[-1].argmax()))
    return made


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LISTED])
def test_a_q8_0_file_has_llama_cpps_logits(name, tmp_path, load_model, monkeypatch):
    """With activations rounded like its own, and one layer: a value on an edge sets off others."""
    _, path = make_file(tmp_path, name, Type.Q8_0, num_hidden_layers=1)
    grouped = ops.grouped_linear
    monkeypatch.setattr(ops, "grouped_linear", lambda x, *rest: grouped(rounded(x), *rest))
    assert likeness(path, load_model, 70, prepare=round_inputs).min() >= 0.9999


def round_inputs(model):
    for name, module in model.named_modules():
        if isinstance(module, Linear) and not name.endswith("router"):  # a file's is float32
            module.register_forward_pre_hook(lambda _, args: (rounded(args[0]),))
    return model


def rounded(x):
    packed = quantize(np.ascontiguousarray(x.numpy()), Type.Q8_0)
    return torch.from_numpy(dequantize(packed, Type.Q8_0).reshape(x.shape))


@pytest.mark.parametrize("kind", MULTIPLIED, ids=lambda t: t.name)
def test_a_file_of_any_type_has_llama_cpps_logits(kind, tmp_path, load_model):
    """As nearly as its rounding of the activations to eight bits allows."""
    size = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8}
    _, path = make_file(tmp_path, "llama", kind, num_hidden_layers=1, **size)
    assert likeness(path, load_model, 20).min() >= 0.998


@pytest.mark.parametrize("name", ["mistral", "mixtral", "phi3-window", "starcoder2-window"])
def test_llama_cpp_sees_past_the_windows_of_some_families(name, tmp_path, load_model):
    """It reads no window of llama and starcoder2, and leaves phi3's out; transformers heeds all."""
    _, path = make_file(tmp_path, name, Type.F32, hidden_size=64, use_bias=True)
    cosines = likeness(path, load_model, 20)
    assert cosines[:8].min() >= 0.99999
    assert cosines[8:].max() < 0.9999


@pytest.mark.parametrize(("length", "context_length"), [(200, 256), (300, 512)])
@pytest.mark.parametrize("name", ["phi3-long", "phi3-long-window"])
def test_longrope_has_the_factors_of_llama_cpp(name, length, context_length, tmp_path, load_model):
    """There a context decides which ones, here a sequence."""
    lengths = {"max_position_embeddings": 1024, "original_max_position_embeddings": 256}
    _, path = make_file(tmp_path, name, Type.F32, sliding_window=None, **lengths)
    assert likeness(path, load_model, length, context_length).min() >= 0.99999


@pytest.mark.parametrize(("name", "depth"), [("gemma2", 46), ("gemma3", 62)])
def test_the_scale_of_the_27b_gemmas_is_told_by_their_depth(name, depth, tmp_path, load_model):
    changes = {"num_hidden_layers": depth, "query_pre_attn_scalar": 16}
    _, path = make_file(tmp_path, name, Type.F32, **changes)
    assert likeness(path, load_model, 20).min() >= 0.999


@pytest.mark.parametrize(
    ("name", "describe"),
    [
        ("llama", lambda writer: writer.add_float32("llama.rope.scale_linear", 2.0)),
        ("llama", lambda writer: writer.add_rope_scaling_factor(2.0)),
        ("llama3", lambda writer: writer.add_rope_scaling_factor(2.0)),
        ("llama-yarn", lambda writer: writer.add_rope_scaling_attn_factors(1.3)),
    ],
    ids=["old name", "no type", "with factors", "attention factor"],
)
def test_keys_of_rope_scaling_are_read_as_by_llama_cpp(name, describe, tmp_path, load_model):
    _, path = make_file(tmp_path, name, Type.F32, describe)
    assert likeness(path, load_model, 20).min() >= 0.99999
