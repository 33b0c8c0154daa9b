"""The sampling random source: published vectors, its layout in plain integers, and its twin."""

import pytest
import torch

from kernels.reference.philox import philox4x32, uniform

# Random123 1.14, tests/kat_vectors, "philox4x32 10": counter, key, result.
VECTORS = {
    "zeros": (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    "ones": (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}
SEEDS = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 0x123456789ABCDEF])
CHOICES = torch.tensor([0, 1, -2, 127, 2**31, 2**40 + 3])
POSITIONS = torch.tensor([0, 1, 4095, 2**31 - 1, 2**31, 2**32 + 5])


@pytest.mark.parametrize(("counter", "key", "result"), VECTORS.values(), ids=VECTORS.keys())
def test_rounds_give_the_published_vectors(counter, key, result):
    c0, c1, c2, c3, k0, k1 = map(torch.tensor, (*counter, *key))
    assert tuple(map(int, philox4x32((c0, c1, c2, c3), (k0, k1)))) == result


def plain_uniform(seed, choice, position, element):
    """One element, in Python's own integers."""
    mask = 0xFFFFFFFF
    c0, c1, c2, c3 = element // 4, position & mask, choice & mask, 0
    k0, k1 = seed & mask, seed >> 32 & mask
    for _ in range(10):
        even, odd = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = odd >> 32 ^ c1 ^ k0, odd & mask, even >> 32 ^ c3 ^ k1, even & mask
        k0, k1 = k0 + 0x9E3779B9 & mask, k1 + 0xBB67AE85 & mask
    return ((c0, c1, c2, c3)[element % 4] // 512 + 0.5) / 2**23


@pytest.mark.parametrize("row", range(len(SEEDS)))
def test_layout_is_the_documented_one(row):
    values = uniform(SEEDS, CHOICES, POSITIONS, 11)[row].tolist()
    parts = int(SEEDS[row]), int(CHOICES[row]), int(POSITIONS[row])
    assert values == [plain_uniform(*parts, element) for element in range(11)]


@pytest.mark.parametrize("num", [0, 1, 3, 4, 4097], ids=str)
def test_kernel_equals_reference_bit_for_bit(num, device, launcher):
    tensors = (SEEDS, CHOICES, POSITIONS)
    result = launcher("philox", "uniform")(*(tensor.to(device) for tensor in tensors), num)
    assert torch.equal(result.cpu(), uniform(*tensors, num))


def test_a_row_depends_on_no_other_row_and_not_on_the_length():
    whole = uniform(SEEDS, CHOICES, POSITIONS, 100)
    alone = uniform(SEEDS[3:4], CHOICES[3:4], POSITIONS[3:4], 37)
    assert torch.equal(whole[3, :37], alone[0])


@pytest.mark.parametrize("changed", range(3), ids=["seed", "choice", "position"])
def test_seed_choice_and_position_each_give_another_row(changed):
    before, after = torch.tensor([[7], [0], [5]]), torch.tensor([[7], [0], [5]])
    after[changed] += 1
    rows = [uniform(parts[0], parts[1], parts[2], 1000) for parts in (before, after)]
    assert (rows[0] == rows[1]).sum() <= 1


def test_values_are_uniform_in_the_open_interval():
    rows = torch.arange(8)
    values = uniform(rows, rows, rows, 1 << 15)
    assert 0 < values.min() < 1e-4
    assert 1 - 1e-4 < values.max() < 1
    counts = torch.histc(values, bins=256, min=0, max=1)
    expected = values.numel() / 256
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert 160 < chi_square < 370  # 255 degrees of freedom, five sigma on either side


def test_the_extreme_words_stay_inside_the_interval():
    extremes = (torch.tensor([0, 0xFFFFFFFF]) >> 9).float()
    assert ((extremes + 0.5) * 2.0**-23).tolist() == [2.0**-24, 1 - 2.0**-24]


def test_launcher_names_what_it_got_and_expected(launcher):
    with pytest.raises(ValueError, match=r"dtype of choices: got torch\.int32"):
        launcher("philox", "uniform")(SEEDS, CHOICES.int(), POSITIONS, 4)
