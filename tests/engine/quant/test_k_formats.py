"""The K formats' quantisers: how near they come, and that an imatrix moves the error."""

import pytest
import torch

from engine.quant.q2_k import Q2_K
from engine.quant.q3_k import Q3_K
from engine.quant.q4_0 import Q4_0
from engine.quant.q4_k import Q4_K
from engine.quant.q5_k import Q5_K
from engine.quant.q6_k import Q6_K

KINDS = [Q2_K, Q3_K, Q4_K, Q5_K, Q6_K]
IDS = [kind.name for kind in KINDS]
# RMSE of standard normal weights; llama.cpp has 0.3182, 0.1650, 0.0754, 0.0382 and 0.0186.
ERRORS = {"Q2_K": 0.295, "Q3_K": 0.162, "Q4_K": 0.0757, "Q5_K": 0.0383, "Q6_K": 0.0188}


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def rmse(kind, rows, imatrix=None):
    unpacked = kind.dequantize(kind.quantize(rows, imatrix))
    return (unpacked - rows).square().mean().sqrt().item()


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_normal_weights_come_as_near_as_in_llama_cpp(kind):
    assert rmse(kind, normal(64, 1024)) < ERRORS[kind.name]


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_the_error_grows_with_the_weights(kind, size):
    rows = normal(16, 1024)
    assert rmse(kind, rows * size) / size == pytest.approx(rmse(kind, rows), rel=0.1)


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_what_the_format_can_hold_comes_back_nearly_as_it_was(kind):
    rows = kind.dequantize(kind.quantize(normal(16, 1024)))
    assert rmse(kind, rows) < 0.35 * rmse(kind, normal(16, 1024))


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_columns_that_matter_more_have_less_error(kind):
    rows = normal(64, 1024)
    imatrix = torch.ones(1024)
    imatrix[::4] = 100.0
    plain = kind.dequantize(kind.quantize(rows, torch.ones(1024))) - rows
    weighted = kind.dequantize(kind.quantize(rows, imatrix)) - rows
    assert weighted[:, ::4].square().mean() < 0.97 * plain[:, ::4].square().mean()


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_an_imatrix_of_zeros_in_places_is_no_harm(kind):
    imatrix = torch.ones(1024)
    imatrix[:512] = 0
    unpacked = kind.dequantize(kind.quantize(normal(8, 1024), imatrix))
    assert unpacked.isfinite().all()
    assert (unpacked - normal(8, 1024))[:, 512:].square().mean().sqrt() < 1.3 * ERRORS[kind.name]


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
@pytest.mark.parametrize(
    "rows",
    [
        torch.zeros(1, 256),
        torch.full((1, 256), 0.3),
        torch.full((1, 256), -0.3),
        torch.full((1, 256), 1e-30),
        torch.full((1, 256), 1e-42),
        torch.cat([torch.zeros(1, 255), torch.ones(1, 1)], 1),
        torch.cat([torch.full((1, 128), 1e4), torch.zeros(1, 128)], 1),
    ],
    ids=["zeros", "one value", "one negative", "tiny", "subnormal", "a single one", "half"],
)
def test_odd_blocks_come_back_whole(kind, rows):
    unpacked = kind.dequantize(kind.quantize(rows))
    assert (unpacked - rows).abs().max() <= 0.02 * rows.abs().max() + 1e-7


def test_an_imatrix_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="imatrix of"):
        Q4_K.quantize(normal(2, 256), torch.ones(128))
    with pytest.raises(ValueError, match="none below zero"):
        Q4_K.quantize(normal(2, 256), -torch.ones(256))
    with pytest.raises(ValueError, match="no use for an imatrix"):
        Q4_0.quantize(normal(2, 256), torch.ones(256))
