"""Unpacking of block formats against ggml's own C functions, which llama-cpp-python brings."""

import ctypes
from importlib import import_module

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES

from engine.quant.block_format import block_format
from tests.engine.llama_cpp_peer import library

pytestmark = pytest.mark.nightly

# ggml packs the activations of its dot products as Q8_1 and Q8_K, and never unpacks them.
KINDS = [
    kind
    for kind, (block, _) in GGML_QUANT_SIZES.items()
    if block > 1 and kind not in (Type.Q8_1, Type.Q8_K)
]
TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class Traits(ctypes.Structure):
    """ggml.h, struct ggml_type_traits."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", TO_FLOAT),
        ("from_float_ref", ctypes.c_void_p),
    )


def traits(kind):
    library()
    get = import_module("llama_cpp._ggml").libggml.ggml_get_type_traits
    get.restype, get.argtypes = ctypes.POINTER(Traits), (ctypes.c_int,)
    found = get(int(kind)).contents
    assert found.type_name.decode().lower() == kind.name.lower()
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda t: t.name)
def test_weights_are_those_of_ggml(kind):
    form, theirs = block_format(kind), traits(kind)
    assert (theirs.blck_size, theirs.type_size) == (form.num_weights, form.num_bytes)
    rng = np.random.default_rng(int(kind))
    blocks = rng.integers(0, 256, (200, form.num_bytes), dtype=np.uint8)
    expected = np.empty((200, form.num_weights), np.float32)
    theirs.to_float(blocks.ctypes.data, expected.ctypes.data, expected.size)
    with np.errstate(all="ignore"):
        weights = form.unpack(blocks)
    # A C compiler may round a product and a sum at once.
    assert np.allclose(weights, expected, rtol=1e-5, atol=0, equal_nan=True)
    assert np.isfinite(weights).sum() > 1000


@pytest.mark.parametrize("kind", [Type.Q8_1, Type.Q8_K], ids=lambda t: t.name)
def test_blocks_that_ggml_packs_only_have_its_sizes(kind):
    form, theirs = block_format(kind), traits(kind)
    assert (theirs.blck_size, theirs.type_size) == (form.num_weights, form.num_bytes)
