"""The inline PTX of kernels/planes/fields.py, run line by line on every word."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kernels.planes.fields import (
    E4M3_INSTRUCTIONS,
    INT8_INSTRUCTIONS,
    MAGIC_BIAS,
    instructions,
    table_instructions,
)
from kernels.planes.format import HIGH_BITS, LOW_BITS

FIELDS = [name for name in LOW_BITS if name != "table"]
WORDS = np.arange(1 << 16, dtype=np.uint32)
PAIRS = WORDS | WORDS[::-1] << 16  # two words a register


def run(text, **registers):
    """Every line of `text` on arrays of uint32 by name; returns them all."""
    values = {f"${name[1:]}": np.asarray(value, np.uint32) for name, value in registers.items()}
    for line in filter(None, re.split(r"[;{}\n]+", text)):
        name, _, rest = line.strip().partition(" ")
        if name and name != ".reg":
            target, *sources = (part.strip() for part in rest.split(","))
            values[target] = OPERATIONS[name](*(number(values, source) for source in sources))
    return values


def number(values, source):
    return values[source] if source in values else np.uint32(int(source, 0))


def lop3(a, b, c, table):
    assert table == 0xEA, "(a & b) | c"
    return (a & b) | c


def prmt(a, b, selector):
    both = [a >> 8 * byte & 255 for byte in range(4)] + [b >> 8 * byte & 255 for byte in range(4)]
    table = np.stack(np.broadcast_arrays(*both, selector)[:8])
    places = [selector >> np.uint32(4 * place) & np.uint32(15) for place in range(4)]
    assert all(np.max(place) < 8 for place in places), "a sign would be repeated"
    chosen = [np.choose(place, table) for place in places]
    return sum(byte << np.uint32(8 * place) for place, byte in enumerate(chosen))


def fma(a, b, c):
    """Two bfloat16 of each: exact in float32 here, then rounded once."""
    numbers = (halves(np.broadcast_to(part, a.shape)) for part in (a, b, c))
    first, second, third = (torch.from_numpy(part).double() for part in numbers)
    bits = (first * second + third).bfloat16().view(torch.int16).numpy().view(np.uint16)
    return bits[0].astype(np.uint32) | bits[1].astype(np.uint32) << 16


def halves(registers):
    """bfloat16 pairs as float32, the lower ones first: [2, N]."""
    return np.stack([registers << 16, registers & 0xFFFF0000]).astype(np.uint32).view(np.float32)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "shr.b32": lambda a, b: a >> b,
    "shl.b32": lambda a, b: a << b,
    "and.b32": lambda a, b: a & b,
    "mov.b32": lambda a: a,
    "lop3.b32": lop3,
    "prmt.b32": prmt,
    "fma.rn.bf16x2": fma,
}


def field(words, plane, bits):
    return words >> np.uint32(plane * bits % 16) & np.uint32((1 << bits) - 1)


@pytest.mark.parametrize("planes", [0, 1])
@pytest.mark.parametrize("codes", FIELDS)
def test_fields_become_their_codes_and_the_bias(codes, planes):
    low, high = LOW_BITS[codes], HIGH_BITS.get(codes, 0)
    others = PAIRS[::-1].copy()
    values = run(instructions(codes, planes), r4=PAIRS, r5=others)
    for plane in range(4):
        for half, (words, more) in enumerate(
            zip((PAIRS & 0xFFFF, PAIRS >> 16), (others & 0xFFFF, others >> 16), strict=True)
        ):
            expected = field(words, planes * 4 + plane, low)
            if high:
                expected = expected | field(more, planes * 4 + plane, high) << low
            assert np.array_equal(halves(values[f"${plane}"])[half], expected + MAGIC_BIAS)


def test_codes_become_numbers_of_a_table():
    numbers = np.array([-128, 127, 0, -1, 1, 5, -7, 100, -104, 64, 63, -65, 2, 3, 4, -6], np.int8)
    table = numbers.view(np.uint32)
    values = run(
        table_instructions(), r4=PAIRS, r5=table[0], r7=table[1], r9=table[2], r11=table[3]
    )
    for plane in range(4):
        for half, words in enumerate((PAIRS & 0xFFFF, PAIRS >> 16)):
            assert np.array_equal(
                halves(values[f"${plane}"])[half], numbers[field(words, plane, 4)]
            )


@pytest.mark.parametrize(
    ("text", "dtype"),
    [(INT8_INSTRUCTIONS, torch.int8), (E4M3_INSTRUCTIONS, torch.float8_e4m3fn)],
    ids=["int8", "e4m3"],
)
def test_bytes_become_their_numbers(text, dtype):
    values = run(text, r2=PAIRS)
    got = np.concatenate([halves(values["$0"]), halves(values["$1"])])
    expected = torch.from_numpy(PAIRS.view(np.uint8).copy()).view(dtype).float().view(-1, 4).T
    is_number = ~expected.isnan().numpy()
    assert np.array_equal(got[is_number], expected.numpy()[is_number])
