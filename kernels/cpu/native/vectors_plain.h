// The lanes of a tile in vectors of no machine, which GCC and clang make of what there is. vectors.h says what the
// operations do.
#pragma once
#include <cstdint>
#include <cstring>

#include "blocks.h"

namespace tramontane {

constexpr const char* kPath = "plain loops";
constexpr int kMostRows = 4;

typedef int32_t Ints __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(64)));
typedef uint8_t Bytes __attribute__((vector_size(64)));
typedef int16_t Shorts __attribute__((vector_size(64)));
typedef uint16_t UnsignedShorts __attribute__((vector_size(64)));

template <class F>
inline Floats each_lane(F f) {
  float lanes[16];
  for (int i = 0; i < 16; i++) lanes[i] = f(i);
  Floats out;
  std::memcpy(&out, lanes, 64);
  return out;
}
inline Ints ints(int32_t value) { return Ints{} + value; }
inline Floats zeros() { return Floats{}; }
inline Floats floats(float value) { return Floats{} + value; }
inline Ints load_codes(const uint8_t* p) {
  Ints out;
  std::memcpy(&out, p, 64);
  return out;
}
inline void store_codes(uint8_t* p, const Ints& codes) { std::memcpy(p, &codes, 64); }
template <int kShift, int kMask>
inline Ints field(const Ints& codes) {
  return (Ints)((Bytes)((UnsignedShorts)codes >> kShift) & static_cast<uint8_t>(kMask));
}
template <int kShift>
inline Ints merge(const Ints& low, const Ints& high) { return low | (Ints)((UnsignedShorts)high << kShift); }

// A product fits sixteen bits, and where codes are below 128 the sum of two does.
template <int kMost = 255>
inline Ints dot(const Ints& sum, const Ints& codes, int32_t four_bytes) {
  const Shorts x = (Shorts)ints(four_bytes), both = (Shorts)codes;
  const Shorts even = (both & 255) * (x << 8 >> 8), odd = (Shorts)((UnsignedShorts)both >> 8) * (x >> 8);
  const auto halves_of = [](Shorts s) { return ((Ints)s << 16 >> 16) + ((Ints)s >> 16); };
  if constexpr (kMost < 128) return sum + halves_of(even + odd);
  else return sum + halves_of(even) + halves_of(odd);
}

template <int kFactor>
inline Ints times(const Ints& values) { return values * kFactor; }
inline Floats to_floats(const Ints& values) { return __builtin_convertvector(values, Floats); }
template <int i>
inline Floats column(const Ints& codes) { return to_floats(codes >> 8 * i & 255); }
inline Floats halves(const uint8_t* p) {
  return each_lane([=](int i) {
    uint16_t half;
    std::memcpy(&half, p + 2 * i, 2);
    return half_to_float(half);
  });
}
inline Floats bytes(const uint8_t* p) {
  return each_lane([=](int i) { return static_cast<float>(p[i]); });
}
inline Floats signed_bytes(const uint8_t* p) {
  return each_lane([=](int i) { return static_cast<float>(static_cast<int8_t>(p[i])); });
}
inline Floats low_nibbles(const uint8_t* p) {
  return each_lane([=](int i) { return static_cast<float>(p[i] & 15); });
}
inline Floats high_nibbles(const uint8_t* p) {
  return each_lane([=](int i) { return static_cast<float>(p[i] >> 4); });
}
inline Floats multiply(const Floats& a, const Floats& b) { return a * b; }
inline Floats multiply_add(const Floats& a, const Floats& b, const Floats& sum) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return each_lane([&](int i) { return __builtin_fmaf(a[i], b[i], sum[i]); });
#else
  return a * b + sum;  // rounded twice, for a library's fused one is slow
#endif
}
inline Floats subtract(const Floats& a, const Floats& b) { return a - b; }
inline Floats load_floats(const float* p) {
  Floats out;
  std::memcpy(&out, p, 64);
  return out;
}
inline float sum_of(const Floats& value) {
  float sum[16];
  std::memcpy(sum, &value, 64);
  for (int count = 8; count > 0; count /= 2)
    for (int i = 0; i < count; i++) sum[i] += sum[i + count];
  return sum[0];
}
inline void store_halves(uint16_t* p, const Floats& value) {
  for (int i = 0; i < 16; i++) p[i] = float_to_half(value[i]);
}
inline void store(float* p, const Floats& value, int count) { std::memcpy(p, &value, 4 * count); }

}  // namespace tramontane
