// The sixteen lanes of a tile as one machine vector: AVX-512 VNNI, or plain loops that any compiler turns into what
// the machine has. Both do the same arithmetic.
#pragma once
#include <cstdint>
#include <cstring>

#include "blocks.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && !defined(TR_PORTABLE)
#include <immintrin.h>
#define TR_AVX512 1
#endif

namespace tramontane {

#ifdef TR_AVX512

constexpr const char* kPath = "AVX-512 VNNI";
constexpr int kMostRows = 8;  // of activations whose sums fit the registers

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
// Each lane: sum += four codes . four signed bytes.
inline Ints dot(Ints sum, Ints codes, int32_t four_bytes) {
  return _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(four_bytes));
}
// Times a power of two, or zero.
template <int kFactor>
inline Ints times(Ints values) {
  if constexpr (kFactor == 0) return _mm512_setzero_si512();
  else return _mm512_slli_epi32(values, __builtin_ctz(kFactor));
}
// Column i of each lane's four, as floats.
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
inline void store(float* p, Floats value, int count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), value);
}

#else

constexpr const char* kPath = "portable";
constexpr int kMostRows = 4;

struct Ints {
  union {
    int32_t lane[16];
    uint8_t byte[64];
  };
};
struct Floats {
  float lane[16];
};

template <class Out, class F>
inline Out each_lane(F f) {
  Out out;
  for (int i = 0; i < 16; i++) out.lane[i] = f(i);
  return out;
}
template <class F>
inline Ints each_byte(F f) {
  Ints out;
  for (int i = 0; i < 64; i++) out.byte[i] = f(i);
  return out;
}
inline Ints ints(int32_t value) { return each_lane<Ints>([=](int) { return value; }); }
inline Floats floats(float value) { return each_lane<Floats>([=](int) { return value; }); }
inline Floats zeros() { return floats(0); }
inline Ints load_codes(const uint8_t* p) {
  Ints out;
  std::memcpy(&out, p, 64);
  return out;
}
inline void store_codes(uint8_t* p, const Ints& codes) { std::memcpy(p, &codes, 64); }
template <int kShift, int kMask>
inline Ints field(const Ints& codes) {
  return each_byte([&](int i) { return static_cast<uint8_t>(codes.byte[i] >> kShift & kMask); });
}
template <int kShift>
inline Ints merge(const Ints& low, const Ints& high) {
  return each_byte([&](int i) { return static_cast<uint8_t>(low.byte[i] | high.byte[i] << kShift); });
}
inline Ints dot(const Ints& sum, const Ints& codes, int32_t four_bytes) {
  int8_t x[4];
  std::memcpy(x, &four_bytes, 4);
  return each_lane<Ints>([&](int i) {
    const uint8_t* c = codes.byte + 4 * i;
    return sum.lane[i] + c[0] * x[0] + c[1] * x[1] + c[2] * x[2] + c[3] * x[3];
  });
}
template <int kFactor>
inline Ints times(const Ints& values) {
  return each_lane<Ints>([&](int i) { return values.lane[i] * kFactor; });
}
template <int i>
inline Floats column(const Ints& codes) {
  return each_lane<Floats>([&](int lane) { return static_cast<float>(codes.byte[4 * lane + i]); });
}
inline Floats to_floats(const Ints& values) {
  return each_lane<Floats>([&](int i) { return static_cast<float>(values.lane[i]); });
}
inline Floats halves(const uint8_t* p) {
  return each_lane<Floats>([=](int i) {
    uint16_t half;
    std::memcpy(&half, p + 2 * i, 2);
    return half_to_float(half);
  });
}
inline Floats bytes(const uint8_t* p) {
  return each_lane<Floats>([=](int i) { return static_cast<float>(p[i]); });
}
inline Floats signed_bytes(const uint8_t* p) {
  return each_lane<Floats>([=](int i) { return static_cast<float>(static_cast<int8_t>(p[i])); });
}
inline Floats low_nibbles(const uint8_t* p) {
  return each_lane<Floats>([=](int i) { return static_cast<float>(p[i] & 15); });
}
inline Floats high_nibbles(const uint8_t* p) {
  return each_lane<Floats>([=](int i) { return static_cast<float>(p[i] >> 4); });
}
inline Floats multiply(const Floats& a, const Floats& b) {
  return each_lane<Floats>([&](int i) { return a.lane[i] * b.lane[i]; });
}
// One rounding where the machine has it, which the library's emulation is too slow for.
inline float fused(float a, float b, float sum) {
#ifdef __FMA__
  return __builtin_fmaf(a, b, sum);
#else
  return a * b + sum;
#endif
}
inline Floats multiply_add(const Floats& a, const Floats& b, const Floats& sum) {
  return each_lane<Floats>([&](int i) { return fused(a.lane[i], b.lane[i], sum.lane[i]); });
}
inline Floats subtract(const Floats& a, const Floats& b) {
  return each_lane<Floats>([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline Floats load_floats(const float* p) {
  return each_lane<Floats>([=](int i) { return p[i]; });
}
inline float sum_of(const Floats& value) {
  float half[8], sum = 0;
  for (int i = 0; i < 8; i++) half[i] = value.lane[i] + value.lane[i + 8];
  for (int i = 0; i < 4; i++) sum += half[i] + half[i + 4];
  return sum;
}
inline void store(float* p, const Floats& value, int count) {
  for (int i = 0; i < count; i++) p[i] = value.lane[i];
}

#endif

}  // namespace tramontane
