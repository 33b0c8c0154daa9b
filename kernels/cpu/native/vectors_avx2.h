// The lanes of a tile in two 256-bit vectors. vectors.h says what the operations do.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace tramontane {

#if defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))
constexpr const char* kPath = "AVX2 VNNI";
#else
constexpr const char* kPath = "AVX2";
#endif
constexpr int kMostRows = 4;  // two sums of each, and the codes, in sixteen registers

struct Ints {
  __m256i low, high;
};
struct Floats {
  __m256 low, high;
};

inline __m128i load_eight(const uint8_t* p) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)); }
inline __m128i load_sixteen(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline Floats floats_of(__m256i low, __m256i high) { return {_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)}; }
inline Floats floats_of_bytes(__m128i v) {
  return floats_of(_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8)));
}

inline Ints ints(int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
inline Floats floats(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline Floats zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Ints load_codes(const uint8_t* p) {
  const auto* at = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
inline void store_codes(uint8_t* p, const Ints& codes) {
  auto* at = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(at, codes.low), _mm256_storeu_si256(at + 1, codes.high);
}
template <int kShift, int kMask>
inline Ints field(const Ints& codes) {
  const auto of = [](__m256i v) {
    return _mm256_and_si256(kShift ? _mm256_srli_epi16(v, kShift) : v, _mm256_set1_epi8(kMask));
  };
  return {of(codes.low), of(codes.high)};
}
template <int kShift>
inline Ints merge(const Ints& low, const Ints& high) {
  return {_mm256_or_si256(low.low, _mm256_slli_epi16(high.low, kShift)),
          _mm256_or_si256(low.high, _mm256_slli_epi16(high.high, kShift))};
}

template <int kMost = 255>
inline Ints dot(const Ints& sum, const Ints& codes, int32_t four_bytes) {
  const __m256i x = _mm256_set1_epi32(four_bytes);
#if defined(__AVXVNNI__)
  return {_mm256_dpbusd_avx_epi32(sum.low, codes.low, x), _mm256_dpbusd_avx_epi32(sum.high, codes.high, x)};
#elif defined(__AVX512VNNI__) && defined(__AVX512VL__)
  return {_mm256_dpbusd_epi32(sum.low, codes.low, x), _mm256_dpbusd_epi32(sum.high, codes.high, x)};
#else
  if constexpr (kMost < 128) {  // two products fit sixteen bits
    const auto plus = [&](__m256i total, __m256i c) {
      return _mm256_add_epi32(total, _mm256_madd_epi16(_mm256_maddubs_epi16(c, x), _mm256_set1_epi16(1)));
    };
    return {plus(sum.low, codes.low), plus(sum.high, codes.high)};
  }
  const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), odd = _mm256_srai_epi16(x, 8);
  const auto plus = [&](__m256i total, __m256i c) {
    const __m256i of_even = _mm256_madd_epi16(_mm256_and_si256(c, _mm256_set1_epi16(255)), even);
    return _mm256_add_epi32(_mm256_add_epi32(total, of_even), _mm256_madd_epi16(_mm256_srli_epi16(c, 8), odd));
  };
  return {plus(sum.low, codes.low), plus(sum.high, codes.high)};
#endif
}

template <int kFactor>
inline Ints times(const Ints& values) {
  if constexpr (kFactor == 0) return ints(0);
  constexpr int kShift = __builtin_ctz(kFactor);
  return {_mm256_slli_epi32(values.low, kShift), _mm256_slli_epi32(values.high, kShift)};
}
template <int i>
inline Floats column(const Ints& codes) {
  const auto of = [](__m256i v) { return _mm256_and_si256(_mm256_srli_epi32(v, 8 * i), _mm256_set1_epi32(255)); };
  return floats_of(of(codes.low), of(codes.high));
}
inline Floats to_floats(const Ints& values) { return floats_of(values.low, values.high); }
inline Floats halves(const uint8_t* p) {
  return {_mm256_cvtph_ps(load_sixteen(p)), _mm256_cvtph_ps(load_sixteen(p + 16))};
}
inline Floats bytes(const uint8_t* p) { return floats_of_bytes(load_sixteen(p)); }
inline Floats signed_bytes(const uint8_t* p) {
  return floats_of(_mm256_cvtepi8_epi32(load_eight(p)), _mm256_cvtepi8_epi32(load_eight(p + 8)));
}
inline Floats low_nibbles(const uint8_t* p) {
  return floats_of_bytes(_mm_and_si128(load_sixteen(p), _mm_set1_epi8(15)));
}
inline Floats high_nibbles(const uint8_t* p) {
  return floats_of_bytes(_mm_and_si128(_mm_srli_epi16(load_sixteen(p), 4), _mm_set1_epi8(15)));
}
inline Floats multiply(const Floats& a, const Floats& b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Floats multiply_add(const Floats& a, const Floats& b, const Floats& sum) {
  return {_mm256_fmadd_ps(a.low, b.low, sum.low), _mm256_fmadd_ps(a.high, b.high, sum.high)};
}
inline Floats subtract(const Floats& a, const Floats& b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Floats load_floats(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline float sum_of(const Floats& value) {
  const __m256 eight = _mm256_add_ps(value.low, value.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline void store_halves(uint16_t* p, const Floats& value) {
  auto* at = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(at, _mm256_cvtps_ph(value.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(at + 1, _mm256_cvtps_ph(value.high, _MM_FROUND_TO_NEAREST_INT));
}
inline void store(float* p, const Floats& value, int count) {
  if (count == 16) {
    _mm256_storeu_ps(p, value.low), _mm256_storeu_ps(p + 8, value.high);
  } else {
    float all[16];
    _mm256_storeu_ps(all, value.low), _mm256_storeu_ps(all + 8, value.high);
    std::memcpy(p, all, 4 * count);
  }
}

}  // namespace tramontane
