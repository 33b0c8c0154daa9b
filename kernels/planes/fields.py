"""Two codes a register to two bfloat16 numbers in two or three instructions, as inline PTX.

A bfloat16 of the bits 0x4300 | q is 128 + q for q below 128. So a code becomes a number when its
bits are put into a constant, and 128 becomes a part of the bias. The compiler finds no such way: it
unpacks every word. The text is made here, in plain Python, so that tests can run it.
"""

from kernels.planes.format import HIGH_BITS, LOW_BITS

MAGIC_BIAS = 128
MAGIC = 0x43004300
# Four E4M3 numbers ($2) to bfloat16 ($0, $1). Moved to where bfloat16 has its bits, a number is
# itself times 2 ** -120, subnormal or not. 0x7B807B80 is 2 ** 120 twice, 0x80008000 minus zero.
E4M3_INSTRUCTIONS = """{
.reg .b32 t;
.reg .b32 u;
.reg .b32 scale;
.reg .b32 zero;
mov.b32 scale, 0x7b807b80;
mov.b32 zero, 0x80008000;
prmt.b32 t, $2, 0, 0x1404;
shr.b32 u, t, 4;
and.b32 t, t, 0x80008000;
lop3.b32 t, u, 0x07f007f0, t, 0xEA;
fma.rn.bf16x2 $0, t, scale, zero;
prmt.b32 t, $2, 0, 0x3424;
shr.b32 u, t, 4;
and.b32 t, t, 0x80008000;
lop3.b32 t, u, 0x07f007f0, t, 0xEA;
fma.rn.bf16x2 $1, t, scale, zero;
}"""

# Four int8 ($2) to bfloat16: 128 + its lower bits, less 128 or, if it is negative, 256.
INT8_INSTRUCTIONS = """{
.reg .b32 t;
.reg .b32 u;
.reg .b32 one;
mov.b32 one, 0x3f803f80;
prmt.b32 t, $2, 0, 0x4140;
lop3.b32 u, t, 0x007f007f, 0x43004300, 0xEA;
lop3.b32 t, t, 0x00800080, 0xc300c300, 0xEA;
fma.rn.bf16x2 $0, u, one, t;
prmt.b32 t, $2, 0, 0x4342;
lop3.b32 u, t, 0x007f007f, 0x43004300, 0xEA;
lop3.b32 t, t, 0x00800080, 0xc300c300, 0xEA;
fma.rn.bf16x2 $1, u, one, t;
}"""


def table_instructions() -> str:
    """PTX that makes four planes ($0 to $3) of two words ($4), looked up among 16 int8 numbers.

    The numbers are in $5, $7, $9 and $11 (each operand comes twice). A word's lower three bits
    of every field choose from eight numbers at once, the fourth bits between the two eights.
    """
    lines = [f".reg .b32 {name};" for name in ("t", "u", "v", "one", "first", "second")]
    lines += ["mov.b32 one, 0x3f803f80;", "and.b32 t, $4, 0x77777777;", "shr.b32 u, $4, 1;"]
    lines += ["lop3.b32 u, u, 0x44444444, 0x32103210, 0xEA;"]
    for name in ("first", "second"):
        lines += [f"prmt.b32 {name}, $5, $7, t;", "prmt.b32 v, $9, $11, t;"]
        lines += [f"prmt.b32 {name}, {name}, v, u;"]
        lines += ["shr.b32 t, t, 16;", "shr.b32 u, u, 16;"] if name == "first" else []
    for plane in range(4):
        lines += [f"prmt.b32 t, first, second, {0x0400 + 0x0101 * plane:#06x};"]
        lines += ["lop3.b32 u, t, 0x007f007f, 0x43004300, 0xEA;"]
        lines += ["lop3.b32 t, t, 0x00800080, 0xc300c300, 0xEA;"]
        lines += [f"fma.rn.bf16x2 ${plane}, u, one, t;"]
    return "\n".join(["{", *lines, "}"])


def instructions(codes: str, planes: int) -> str:
    """PTX that makes four planes ($0 to $3) of words ($4) and, if there are, higher bits ($5).

    `planes` says which four of the fields: 0 the first, 1 the second. A register has two words.
    """
    low, high = LOW_BITS[codes], HIGH_BITS.get(codes, 0)
    first_low = planes * 4 if low == 2 else 0  # four-bit words hold four planes, not eight
    lines = [".reg .b32 t;", ".reg .b32 u;"]
    for plane in range(4):
        lines += _field("t", "$4", (first_low + plane) * low, 0, low, f"{MAGIC:#010x}", plane)
        if high:
            shift = (planes * 4 + plane) * high
            lines += _field("u", "$5", shift, low, high, f"${plane}", plane)
    return "\n".join(["{", *lines, "}"])


def _field(
    name: str, source: str, at: int, place: int, bits: int, into: str, plane: int
) -> list[str]:
    """A field of `bits` at `at` of both words, put at `place` into the bits of `into`."""
    mask = ((1 << bits) - 1) << place
    shift = at - place
    direction = "shr" if shift > 0 else "shl"
    moved = f"{direction}.b32 {name}, {source}, {abs(shift)};"
    # 0xEA is (a & b) | c.
    taken = name if shift else source
    merged = f"lop3.b32 ${plane}, {taken}, {mask << 16 | mask:#010x}, {into}, 0xEA;"
    return [moved, merged] if shift else [merged]
