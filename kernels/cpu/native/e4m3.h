// E4M3 (torch.float8_e4m3fn): four columns of a tile as floats and, where the machine multiplies them, as bfloat16,
// which both hold every such number.
#pragma once
#include "vectors.h"

#if defined(TR_AVX512) && defined(__AVX512BF16__)
#define TR_BRAINS 1
#endif

namespace tramontane {

constexpr int kQuadBytes = 4 * kRows;

// Where in a quad the code of a row and column lies: as interleaving the halves of numbers, eight bytes at a time,
// makes pairs of columns of it.
constexpr int place_in_quad(int row, int column) { return row / 4 * 16 + column / 2 * 8 + row % 4 * 2 + column % 2; }

// The upper half of a float32; the lower one is zero.
constexpr uint16_t e4m3_bits(int code) {
  const int sign = (code & 0x80) << 8, exponent = code >> 3 & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return static_cast<uint16_t>(sign | 0x7fc0);
  if (exponent) return static_cast<uint16_t>(sign | (exponent + 120) << 7 | mantissa << 4);
  if (!mantissa) return static_cast<uint16_t>(sign);
  const int top = mantissa > 3 ? 2 : mantissa > 1 ? 1 : 0;  // mantissa / 8 * 2^-6 has the exponent top - 9
  return static_cast<uint16_t>(sign | (top + 118) << 7 | ((mantissa << (7 - top)) & 0x7f));
}

struct E4m3 {
  uint8_t low[128], high[128];  // of numbers above zero
  float value[256];
};

inline const E4m3& e4m3_table() {
  static const E4m3 table = [] {
    E4m3 t;
    for (int code = 0; code < 256; code++) {
      const uint32_t bits = static_cast<uint32_t>(e4m3_bits(code)) << 16;
      std::memcpy(&t.value[code], &bits, 4);
      if (code < 128) t.low[code] = (bits >> 16) & 255, t.high[code] = bits >> 24;
    }
    return t;
  }();
  return table;
}

#if defined(TR_AVX512) && defined(__AVX512VBMI__)

// The table in registers.
struct Numbers {
  Ints low[2], high[2];

  Numbers() {
    const E4m3& t = e4m3_table();
    for (int i = 0; i < 2; i++) low[i] = load_codes(t.low + 64 * i), high[i] = load_codes(t.high + 64 * i);
  }
  // Pairs of columns 0 and 1, and 2 and 3: bfloat16, the first in the low half.
  void pairs(const uint8_t* quad, Ints& first, Ints& second) const {
    const Ints codes = load_codes(quad);
    const Ints lower = _mm512_permutex2var_epi8(low[0], codes, low[1]);
    const Ints size = _mm512_permutex2var_epi8(high[0], codes, high[1]);
    const Ints upper = _mm512_ternarylogic_epi32(size, codes, _mm512_set1_epi8(-128), 0xf8);  // size | codes & 128
    first = _mm512_unpacklo_epi8(lower, upper);
    second = _mm512_unpackhi_epi8(lower, upper);
  }
  void columns(const uint8_t* quad, Floats (&out)[4]) const {
    Ints of[2];
    pairs(quad, of[0], of[1]);
    for (int i = 0; i < 2; i++) {
      out[2 * i] = _mm512_castsi512_ps(_mm512_slli_epi32(of[i], 16));
      out[2 * i + 1] = _mm512_castsi512_ps(_mm512_and_si512(of[i], _mm512_set1_epi32(static_cast<int>(0xffff0000))));
    }
  }
};

#else
#undef TR_BRAINS  // no machine has the one without the other

struct Numbers {
  const float* value = e4m3_table().value;

  void columns(const uint8_t* quad, Floats (&out)[4]) const {
    for (int c = 0; c < 4; c++) {
      float values[kRows];
      for (int row = 0; row < kRows; row++) values[row] = value[quad[place_in_quad(row, c)]];
      out[c] = load_floats(values);
    }
  }
};

#endif

}  // namespace tramontane
