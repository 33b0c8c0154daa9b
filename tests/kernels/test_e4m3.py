"""8-bit floats inside kernels: both ways are torch's, for every pattern and at every tie."""

import pytest
import torch

pytest.importorskip("triton")


@pytest.fixture
def convert(launcher, device):
    """`convert(tensor, is_native)`: bit patterns to numbers, or numbers to bit patterns."""
    launcher("e4m3", "is_native")
    from tests.kernels.e4m3_kernels import narrow, widen

    def run(x, is_native):
        if is_native and device.type == "cuda" and torch.cuda.get_device_capability() < (8, 9):
            pytest.skip("no such instructions")
        is_bits = x.dtype == torch.uint8
        x = x.to(device)
        output = torch.empty(len(x), dtype=torch.float32 if is_bits else torch.uint8, device=device)
        (widen if is_bits else narrow)[(len(x) // 256,)](x, output, is_native)
        return output.cpu()

    return run


def all_numbers():
    return torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()


@pytest.mark.parametrize("is_native", [True, False], ids=["native", "calculated"])
def test_every_pattern_is_widened_to_its_number(is_native, convert):
    numbers = convert(torch.arange(256, dtype=torch.uint8), is_native)
    torch.testing.assert_close(numbers, all_numbers(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("is_native", [True, False], ids=["native", "calculated"])
def test_numbers_round_to_the_nearest_pattern_and_stay_in_range(is_native, convert, generator):
    numbers = all_numbers()[:127]
    middles = (numbers[1:] + numbers[:-1]) / 2
    positive = torch.cat(
        [
            *(numbers, middles, middles.nextafter(torch.tensor(0.0))),
            middles.nextafter(torch.tensor(torch.inf)),
            torch.tensor([464.0, 465.0, 1e30, torch.inf, torch.nan, 1e-40, 2.0**-10]),
            torch.randn(250, generator=generator).abs() * 20,
        ]
    )
    values = torch.cat([positive, -positive])
    values = torch.nn.functional.pad(values, (0, -len(values) % 256))
    expected = values.clamp(-448, 448).to(torch.float8_e4m3fn)
    bits = convert(values, is_native)
    # A NaN's sign is nobody's business.
    torch.testing.assert_close(
        bits.view(torch.float8_e4m3fn).float(), expected.float(), rtol=0, atol=0, equal_nan=True
    )
    assert values.signbit()[~values.isnan()].equal((bits >= 128)[~values.isnan()])
