// The lanes of a tile in loops, which a compiler turns into what the machine has. vectors.h says what the operations do.
#pragma once
#include <cstdint>
#include <cstring>

#include "blocks.h"

namespace tramontane {

constexpr const char* kPath = "plain loops";
constexpr int kMostRows = 8;

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
template <int kMost = 255>
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
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
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
  Floats sum = value;
  for (int count = 8; count > 0; count /= 2)
    for (int i = 0; i < count; i++) sum.lane[i] += sum.lane[i + count];
  return sum.lane[0];
}
inline void store(float* p, const Floats& value, int count) {
  for (int i = 0; i < count; i++) p[i] = value.lane[i];
}

}  // namespace tramontane
