// Vector operations of formats whose codes stand for numbers in a table, or are small floats. On AVX-512, or through
// memory on whatever path vectors.h has: the arithmetic is the same.
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

// E4M3 (torch.float8_e4m3fn). As float16 its exponent is 8 less than it should be.
inline float e4m3(uint8_t code) {
  if ((code & 0x7f) == 0x7f) return half_to_float(0x7e00);
  return half_to_float(static_cast<uint16_t>((code & 0x80) << 8 | (code & 0x7f) << 7)) * 256.0f;
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

// Two runs of sixteen E4M3 numbers.
inline void load_e4m3(const uint8_t* p, Floats& first, Floats& second) {
  const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  const __m512i half = _mm512_and_si512(_mm512_slli_epi16(wide, 7), _mm512_set1_epi16(static_cast<int16_t>(0xbf80)));
  const __mmask32 is_nan = _mm512_cmpeq_epi16_mask(
      _mm512_and_si512(wide, _mm512_set1_epi16(0x7f)), _mm512_set1_epi16(0x7f));
  const __m512i all = _mm512_mask_mov_epi16(half, is_nan, _mm512_set1_epi16(0x7e00));
  const __m512 factor = _mm512_set1_ps(256.0f);
  first = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(all)), factor);
  second = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(all, 1)), factor);
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
inline void load_e4m3(const uint8_t* p, Floats& first, Floats& second) {
  float values[32];
  for (int i = 0; i < 32; i++) values[i] = e4m3(p[i]);
  first = load_floats(values), second = load_floats(values + 16);
}

#endif

}  // namespace tramontane
