// Vector operations of formats whose codes stand for numbers in a table. On AVX-512, or through memory on whatever path
// vectors.h has: the arithmetic is the same.
#pragma once
#include "vectors.h"

namespace tramontane {

// 2^(e - 128), ggml's half of an E8M0 exponent; a float32 without its leading bit for the least two.
inline float half_of_exponent(uint8_t e) {
  const uint32_t bits = e < 2 ? 0x00200000u << e : (e - 1u) << 23;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

#ifdef TR_AVX512

// Sixteen bytes, for `lookup`.
inline Ints load_table(const uint8_t* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
// Each byte below 16 replaced by the table's.
inline Ints lookup(Ints table, Ints codes) { return _mm512_shuffle_epi8(table, codes); }

inline Floats halves_of_exponents(const uint8_t* p) {
  const __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512i plain = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
  const __mmask16 is_least = _mm512_cmplt_epu32_mask(e, _mm512_set1_epi32(2));
  return _mm512_castsi512_ps(_mm512_mask_sllv_epi32(plain, is_least, _mm512_set1_epi32(0x00200000), e));
}

#else

static_assert(sizeof(Ints) == 64, "a vector of codes is its bytes in order");

inline Ints load_table(const uint8_t* p) {
  uint8_t bytes[64];
  for (int i = 0; i < 4; i++) std::memcpy(bytes + 16 * i, p, 16);
  return load_codes(bytes);
}
inline Ints lookup(const Ints& table, const Ints& codes) {
  uint8_t of[64], in[64], out[64];
  std::memcpy(of, &table, 64);
  std::memcpy(in, &codes, 64);
  for (int i = 0; i < 64; i++) out[i] = of[in[i] & 15];
  return load_codes(out);
}
inline Floats halves_of_exponents(const uint8_t* p) {
  float values[16];
  for (int i = 0; i < 16; i++) values[i] = half_of_exponent(p[i]);
  return load_floats(values);
}
#endif

}  // namespace tramontane
