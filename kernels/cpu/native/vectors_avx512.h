// The lanes of a tile in one 512-bit vector. vectors.h says what the operations do.
#pragma once
#include <immintrin.h>

#include <cstdint>

#define TR_AVX512 1

namespace tramontane {

constexpr const char* kPath = "AVX-512 VNNI";
constexpr int kMostRows = 8;  // a sum of each, and what goes into it, in 32 registers

using Ints = __m512i;  // 16 x int32, or the 64 bytes of a vector of codes
using Floats = __m512;

inline Ints ints(int32_t value) { return _mm512_set1_epi32(value); }
inline Floats floats(float value) { return _mm512_set1_ps(value); }
inline Floats zeros() { return _mm512_setzero_ps(); }
inline Ints load_codes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline void store_codes(uint8_t* p, Ints codes) { _mm512_storeu_si512(p, codes); }
template <int kShift, int kMask>
inline Ints field(Ints codes) {
  return _mm512_and_si512(kShift ? _mm512_srli_epi16(codes, kShift) : codes, _mm512_set1_epi8(kMask));
}
template <int kShift>
inline Ints merge(Ints low, Ints high) { return _mm512_or_si512(low, _mm512_slli_epi16(high, kShift)); }
template <int kMost = 255>
inline Ints dot(Ints sum, Ints codes, int32_t four_bytes) {
  return _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(four_bytes));
}
template <int kFactor>
inline Ints times(Ints values) {
  if constexpr (kFactor == 0) return _mm512_setzero_si512();
  else return _mm512_slli_epi32(values, __builtin_ctz(kFactor));
}
template <int i>
inline Floats column(Ints codes) {
  return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(codes, 8 * i), _mm512_set1_epi32(255)));
}
inline Floats to_floats(Ints values) { return _mm512_cvtepi32_ps(values); }
inline Floats halves(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Floats bytes(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline Floats signed_bytes(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline Floats low_nibbles(const uint8_t* p) {
  const __m128i v = _mm_and_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), _mm_set1_epi8(15));
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(v));
}
inline Floats high_nibbles(const uint8_t* p) {
  const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(_mm_srli_epi16(v, 4), _mm_set1_epi8(15))));
}
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
inline Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats load_floats(const float* p) { return _mm512_loadu_ps(p); }
inline float sum_of(Floats value) { return _mm512_reduce_add_ps(value); }
// Each step of sum_of for all at once: two vectors' halves side by side.
inline Floats sums_of(const Floats (&in)[16]) {
  Floats a[8], b[4], c[2];
  for (int i = 0; i < 8; i++) {
    const Floats x = in[2 * i], y = in[2 * i + 1];
    a[i] = _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
  }
  for (int i = 0; i < 4; i++) {
    const Floats x = a[2 * i], y = a[2 * i + 1];
    b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
  }
  for (int i = 0; i < 2; i++) {
    const Floats x = b[2 * i], y = b[2 * i + 1];
    c[i] = _mm512_add_ps(_mm512_shuffle_ps(x, y, 0x44), _mm512_shuffle_ps(x, y, 0xee));
  }
  const Floats sums = _mm512_add_ps(_mm512_shuffle_ps(c[0], c[1], 0x88), _mm512_shuffle_ps(c[0], c[1], 0xdd));
  const Ints order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_ps(order, sums);
}
// Pairs of numbers, then of pairs, then of quarters of vectors trade places.
inline void transpose(Floats (&block)[16]) {
  __m512d pairs[16];
  for (int i = 0; i < 16; i += 4)
    for (int half = 0; half < 2; half++) {
      const Floats a = block[i + 2 * half], b = block[i + 2 * half + 1];
      pairs[i + 2 * half] = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
      pairs[i + 2 * half + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
    }
  Floats fours[4][4];  // lane group g of fours[i][j]: number 4g + j of vectors 4i to 4i + 3
  for (int i = 0; i < 4; i++)
    for (int half = 0; half < 2; half++) {
      const __m512d a = pairs[4 * i + half], b = pairs[4 * i + 2 + half];
      fours[i][2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      fours[i][2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  for (int j = 0; j < 4; j++) {
    const Floats a = _mm512_shuffle_f32x4(fours[0][j], fours[1][j], 0x44);
    const Floats b = _mm512_shuffle_f32x4(fours[2][j], fours[3][j], 0x44);
    const Floats c = _mm512_shuffle_f32x4(fours[0][j], fours[1][j], 0xee);
    const Floats d = _mm512_shuffle_f32x4(fours[2][j], fours[3][j], 0xee);
    block[j] = _mm512_shuffle_f32x4(a, b, 0x88), block[4 + j] = _mm512_shuffle_f32x4(a, b, 0xdd);
    block[8 + j] = _mm512_shuffle_f32x4(c, d, 0x88), block[12 + j] = _mm512_shuffle_f32x4(c, d, 0xdd);
  }
}
inline void store_halves(uint16_t* p, Floats value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}
inline void store(float* p, Floats value, int count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), value);
}

}  // namespace tramontane
