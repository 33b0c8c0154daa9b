"""Blocks of old GGML files against the same weights in today's blocks, as gguf-py unpacks them."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

from engine.quant.ggjt import ggjt_format
from tests.engine.quant.old_blocks import to_old_blocks

KINDS = (Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS, ids=lambda t: t.name)
def test_old_blocks_hold_the_weights_of_new_ones(kind, version):
    weights = np.random.default_rng(0).normal(size=(50, 32)).astype(np.float32)
    blocks = quantize(weights, kind)
    form = ggjt_format(kind, version)
    old = to_old_blocks(blocks, kind, version)
    assert old.shape == (50, form.num_bytes)
    assert np.array_equal(form.unpack(old), dequantize(blocks, kind))


@pytest.mark.parametrize(
    ("kind", "version"), [(Type.Q4_K, 1), (Type.Q6_K, 2), (Type.IQ4_NL, 3), (Type.I8, 3)]
)
def test_types_that_came_later_are_refused(kind, version):
    with pytest.raises(ValueError, match=f"version {version} does not have that type"):
        ggjt_format(kind, version)
