"""What the kernels share: four planes of codes as numbers, and the scales of groups."""

import triton
import triton.language as tl

from kernels.planes.fields import (
    E4M3_INSTRUCTIONS,
    INT8_INSTRUCTIONS,
    instructions,
    table_instructions,
)

_INT8 = tl.constexpr(INT8_INSTRUCTIONS)
_TABLE = tl.constexpr(table_instructions())
_E4M3 = tl.constexpr(E4M3_INSTRUCTIONS)
_FIELDS2_0 = tl.constexpr(instructions("bits2", 0))
_FIELDS2_1 = tl.constexpr(instructions("bits2", 1))
_FIELDS3_0 = tl.constexpr(instructions("bits3", 0))
_FIELDS3_1 = tl.constexpr(instructions("bits3", 1))
_FIELDS4 = tl.constexpr(instructions("bits4", 0))
_FIELDS5_0 = tl.constexpr(instructions("bits5", 0))
_FIELDS5_1 = tl.constexpr(instructions("bits5", 1))
_FIELDS6_0 = tl.constexpr(instructions("bits6", 0))
_FIELDS6_1 = tl.constexpr(instructions("bits6", 1))


@triton.jit
def _fields_of_words(ASM: tl.constexpr, low):
    return tl.inline_asm_elementwise(
        ASM,
        "=&r,=&r,=&r,=&r,r",
        [low],
        dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16),
        is_pure=True,
        pack=2,
    )


@triton.jit
def _fields_of_both(ASM: tl.constexpr, low, high):
    return tl.inline_asm_elementwise(
        ASM,
        "=&r,=&r,=&r,=&r,r,r",
        [low, high],
        dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16),
        is_pure=True,
        pack=2,
    )


@triton.jit
def _numbers_of_words(low, table):
    words = table.to(tl.pointer_type(tl.int32))
    return tl.inline_asm_elementwise(
        _TABLE,
        "=&r,=&r,=&r,=&r,r,r,r,r,r,r,r,r,r",
        [low, tl.load(words), tl.load(words + 1), tl.load(words + 2), tl.load(words + 3)],
        dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16),
        is_pure=True,
        pack=2,
    )


@triton.jit
def _fast_fields(low, high, HALF: tl.constexpr, CODES: tl.constexpr):
    if CODES == "bits4":
        return _fields_of_words(_FIELDS4, low)
    elif CODES == "bits2":
        if HALF == 0:
            return _fields_of_words(_FIELDS2_0, low)
        else:
            return _fields_of_words(_FIELDS2_1, low)
    elif CODES == "bits3":
        if HALF == 0:
            return _fields_of_both(_FIELDS3_0, low, high)
        else:
            return _fields_of_both(_FIELDS3_1, low, high)
    elif CODES == "bits5":
        if HALF == 0:
            return _fields_of_both(_FIELDS5_0, low, high)
        else:
            return _fields_of_both(_FIELDS5_1, low, high)
    else:
        if HALF == 0:
            return _fields_of_both(_FIELDS6_0, low, high)
        else:
            return _fields_of_both(_FIELDS6_1, low, high)


@triton.jit
def _field(low, high, PLANE: tl.constexpr, CODES: tl.constexpr):
    """The code of one plane of eight, int32."""
    if CODES == "bits2" or CODES == "bits3":
        code = (low.to(tl.int32) >> (2 * PLANE)) & 3
    else:
        code = (low.to(tl.int32) >> (4 * (PLANE % 4))) & 15
    if CODES == "bits3":
        code |= ((high.to(tl.int32) >> PLANE) & 1) << 2
    elif CODES == "bits5":
        code |= ((high.to(tl.int32) >> PLANE) & 1) << 4
    elif CODES == "bits6":
        code |= ((high.to(tl.int32) >> (2 * PLANE)) & 3) << 4
    return code


@triton.jit
def _e4m3_to_float32(code):
    # Moved to where float32 has them, the bits are the number times 2 ** -120; so are subnormals.
    # A code that is no number is none here: packing made its group's scale no number.
    bits = code.to(tl.int32)
    moved = ((bits & 127) << 20) | ((bits & 128) << 24)
    return moved.to(tl.float32, bitcast=True) * (2.0**120)


@triton.jit
def _bytes_to_bfloat16(ASM: tl.constexpr, code):
    return tl.inline_asm_elementwise(
        ASM, "=&r,=&r,r", [code], dtype=tl.bfloat16, is_pure=True, pack=4
    )


@triton.jit
def _plane(
    low,
    high,
    table,
    mask,
    PLANE: tl.constexpr,
    CODES: tl.constexpr,
    TYPE: tl.constexpr,
    IS_FAST: tl.constexpr,
):
    if CODES == "e4m3":
        if IS_FAST:
            return _bytes_to_bfloat16(_E4M3, low)
        else:
            return _e4m3_to_float32(low).to(TYPE)
    elif CODES == "int8":
        if IS_FAST:
            return _bytes_to_bfloat16(_INT8, low)
        else:
            return low.to(tl.float32).to(TYPE)
    elif CODES == "table":
        return (
            tl.load(table + _field(low, high, PLANE, CODES), mask=mask, other=0)
            .to(tl.float32)
            .to(TYPE)
        )
    else:
        return _field(low, high, PLANE, CODES).to(tl.float32).to(TYPE)


@triton.jit
def _high_words(high_rows, lane, mask, block, CODES: tl.constexpr):
    if CODES == "bits6":
        return tl.load(high_rows + block * 32 + lane, mask=mask, other=0)
    else:
        words = tl.load(high_rows + block * 16 + lane % 16, mask=mask, other=0)
        return tl.where(lane < 16, words, words >> 8)


@triton.jit
def load_planes(
    low_rows,
    high_rows,
    table,
    mask,
    lane,
    block,
    HALF: tl.constexpr,
    CODES: tl.constexpr,
    TYPE: tl.constexpr,
    IS_FAST: tl.constexpr,
):
    """Planes 0 to 3 of a block or, with HALF 1, 4 to 7, as numbers; of fields not yet less a bias.

    `low_rows` and `high_rows` are where rows begin, [rows, 1] or [1, rows]; `lane` is 0 to 31 the
    other way round. If IS_FAST, fields come as bfloat16 with 128 added.
    """
    if CODES == "int8" or CODES == "e4m3":
        first = low_rows + block * 256 + HALF * 128 + lane
        a = _plane(tl.load(first, mask=mask, other=0), 0, table, mask, 0, CODES, TYPE, IS_FAST)
        b = _plane(tl.load(first + 32, mask=mask, other=0), 0, table, mask, 0, CODES, TYPE, IS_FAST)
        c = _plane(tl.load(first + 64, mask=mask, other=0), 0, table, mask, 0, CODES, TYPE, IS_FAST)
        d = _plane(tl.load(first + 96, mask=mask, other=0), 0, table, mask, 0, CODES, TYPE, IS_FAST)
        return a, b, c, d
    else:
        if CODES == "bits2" or CODES == "bits3":
            words = tl.load(low_rows + block * 32 + lane, mask=mask, other=0)
        else:
            words = tl.load(low_rows + block * 64 + HALF * 32 + lane, mask=mask, other=0)
        more = words
        if CODES == "bits3" or CODES == "bits5" or CODES == "bits6":
            more = _high_words(high_rows, lane, mask, block, CODES)
        if IS_FAST and CODES == "table":
            return _numbers_of_words(words, table)
        elif IS_FAST:
            return _fast_fields(words, more, HALF, CODES)
        else:
            a = _plane(words, more, table, mask, HALF * 4, CODES, TYPE, False)
            b = _plane(words, more, table, mask, HALF * 4 + 1, CODES, TYPE, False)
            c = _plane(words, more, table, mask, HALF * 4 + 2, CODES, TYPE, False)
            d = _plane(words, more, table, mask, HALF * 4 + 3, CODES, TYPE, False)
            return a, b, c, d


@triton.jit
def _upper_half(word):
    return (word >> 16).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _lower_half(word):
    return word.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _unsigned(byte):
    # Exact without a conversion: 2 ** 23 + byte has the byte as its lowest bits.
    return ((byte & 255) | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0


@triton.jit
def load_scales(scales, supers, place, block, mask, SCALES: tl.constexpr):
    """Scale and shift, float32, of the groups at `place`, whose blocks are at `block`.

    Of the AFFINE kinds the second is the zero.
    """
    stored = tl.load(scales + place, mask=mask, other=0)
    if SCALES == "halves" or SCALES == "floats":
        scale = stored.to(tl.float32)
        shift = scale * 0.0
    elif SCALES == "half_pairs":
        scale = _lower_half(stored)
        shift = -_upper_half(stored)
    elif SCALES == "exponents":
        # 2 ** (byte - 128); of the lowest two bytes it is subnormal.
        byte = stored.to(tl.int32)
        bits = tl.where(byte < 2, 0x00200000 << byte, (byte - 1) << 23)
        scale = bits.to(tl.float32, bitcast=True)
        shift = scale * 0.0
    elif SCALES == "bytes":
        scale = stored.to(tl.float32) * tl.load(supers + block, mask=mask, other=0).to(tl.float32)
        shift = scale * 0.0
    elif SCALES == "nibble_pairs":
        pair = stored.to(tl.int32)
        both = tl.load(supers + block, mask=mask, other=0)
        scale = _lower_half(both) * _unsigned(pair & 15)
        shift = _upper_half(both) * _unsigned(pair >> 4)
    elif SCALES == "byte_pairs":
        pair = stored.to(tl.int32)
        both = tl.load(supers + block, mask=mask, other=0)
        scale = _lower_half(both) * _unsigned(pair)
        shift = _upper_half(both) * _unsigned(pair >> 8)
    else:
        scale = stored
        shift = tl.load(supers + place, mask=mask, other=0.0)
    return scale, shift
