// The lanes of a tile in four 128-bit vectors. vectors.h says what the operations do.
#pragma once
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace tramontane {

#if defined(__ARM_FEATURE_MATMUL_INT8)
constexpr const char* kPath = "NEON i8mm";
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr const char* kPath = "NEON dotprod";
#else
constexpr const char* kPath = "NEON";
#endif
constexpr int kMostRows = 4;  // four sums of each, and the codes, in 32 registers

struct Ints {
  int32x4_t part[4];
};
struct Floats {
  float32x4_t part[4];
};

template <class Out, class F>
inline Out each_part(F f) { return {f(0), f(1), f(2), f(3)}; }

inline int32x4_t words(uint8x16_t v) { return vreinterpretq_s32_u8(v); }
inline uint8x16_t unsigned_bytes_of(int32x4_t v) { return vreinterpretq_u8_s32(v); }
inline int8x16_t bytes_of(int32x4_t v) { return vreinterpretq_s8_s32(v); }
inline Floats floats_of_bytes(uint8x16_t v) {
  const uint16x8_t low = vmovl_u8(vget_low_u8(v)), high = vmovl_high_u8(v);
  return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_high_u16(low)),
          vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))), vcvtq_f32_u32(vmovl_high_u16(high))};
}

inline Ints ints(int32_t value) { return each_part<Ints>([=](int) { return vdupq_n_s32(value); }); }
inline Floats floats(float value) { return each_part<Floats>([=](int) { return vdupq_n_f32(value); }); }
inline Floats zeros() { return floats(0); }
inline Ints load_codes(const uint8_t* p) {
  return each_part<Ints>([=](int i) { return words(vld1q_u8(p + 16 * i)); });
}
inline void store_codes(uint8_t* p, const Ints& codes) {
  for (int i = 0; i < 4; i++) vst1q_u8(p + 16 * i, unsigned_bytes_of(codes.part[i]));
}
template <int kShift, int kMask>
inline Ints field(const Ints& codes) {
  return each_part<Ints>([&](int i) {
    uint8x16_t v = unsigned_bytes_of(codes.part[i]);
    if constexpr (kShift > 0) v = vshrq_n_u8(v, kShift);
    return words(vandq_u8(v, vdupq_n_u8(kMask)));
  });
}
template <int kShift>
inline Ints merge(const Ints& low, const Ints& high) {
  return each_part<Ints>([&](int i) {
    return words(vorrq_u8(unsigned_bytes_of(low.part[i]), vshlq_n_u8(unsigned_bytes_of(high.part[i]), kShift)));
  });
}

// Four signed bytes of each lane times four others, neither pair of both at -128: two products fit sixteen bits.
inline int32x4_t dot_signed(int32x4_t sum, int8x16_t a, int8x16_t b) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sum, a, b);
#else
  const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_high_s8(a, b);
  return vpadalq_s16(sum, vpaddq_s16(low, high));
#endif
}
template <int kMost = 255>
inline Ints dot(const Ints& sum, const Ints& codes, int32_t four_bytes) {
  const int8x16_t x = bytes_of(vdupq_n_s32(four_bytes));
#if defined(__ARM_FEATURE_MATMUL_INT8)
  return each_part<Ints>([&](int i) { return vusdotq_s32(sum.part[i], unsigned_bytes_of(codes.part[i]), x); });
#else
  if constexpr (kMost < 128)
    return each_part<Ints>([&](int i) { return dot_signed(sum.part[i], bytes_of(codes.part[i]), x); });
  // With 128 less than each code, which a sign bit turned over is, and what that is short of.
  const int32x4_t rest = vshlq_n_s32(dot_signed(vdupq_n_s32(0), x, vdupq_n_s8(1)), 7);
  return each_part<Ints>([&](int i) {
    const int8x16_t less = vreinterpretq_s8_u8(veorq_u8(unsigned_bytes_of(codes.part[i]), vdupq_n_u8(128)));
    return dot_signed(vaddq_s32(sum.part[i], rest), less, x);
  });
#endif
}

template <int kFactor>
inline Ints times(const Ints& values) {
  if constexpr (kFactor == 0) return ints(0);
  else return each_part<Ints>([&](int i) { return vshlq_n_s32(values.part[i], __builtin_ctz(kFactor)); });
}
template <int i>
inline Floats column(const Ints& codes) {
  return each_part<Floats>([&](int part) {
    uint32x4_t v = vreinterpretq_u32_s32(codes.part[part]);
    if constexpr (i > 0) v = vshrq_n_u32(v, 8 * i);
    return vcvtq_f32_u32(vandq_u32(v, vdupq_n_u32(255)));
  });
}
inline Floats to_floats(const Ints& values) {
  return each_part<Floats>([&](int i) { return vcvtq_f32_s32(values.part[i]); });
}
inline Floats halves(const uint8_t* p) {
  return each_part<Floats>([=](int i) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p + 8 * i))); });
}
inline Floats bytes(const uint8_t* p) { return floats_of_bytes(vld1q_u8(p)); }
inline Floats signed_bytes(const uint8_t* p) {
  const int8x16_t v = vreinterpretq_s8_u8(vld1q_u8(p));
  const int16x8_t low = vmovl_s8(vget_low_s8(v)), high = vmovl_high_s8(v);
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
          vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_high_s16(high))};
}
inline Floats low_nibbles(const uint8_t* p) { return floats_of_bytes(vandq_u8(vld1q_u8(p), vdupq_n_u8(15))); }
inline Floats high_nibbles(const uint8_t* p) { return floats_of_bytes(vshrq_n_u8(vld1q_u8(p), 4)); }
inline Floats multiply(const Floats& a, const Floats& b) {
  return each_part<Floats>([&](int i) { return vmulq_f32(a.part[i], b.part[i]); });
}
inline Floats multiply_add(const Floats& a, const Floats& b, const Floats& sum) {
  return each_part<Floats>([&](int i) { return vfmaq_f32(sum.part[i], a.part[i], b.part[i]); });
}
inline Floats subtract(const Floats& a, const Floats& b) {
  return each_part<Floats>([&](int i) { return vsubq_f32(a.part[i], b.part[i]); });
}
inline Floats load_floats(const float* p) {
  return each_part<Floats>([=](int i) { return vld1q_f32(p + 4 * i); });
}
inline float sum_of(const Floats& value) {
  const float32x4_t four = vaddq_f32(vaddq_f32(value.part[0], value.part[2]), vaddq_f32(value.part[1], value.part[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline void store_halves(uint16_t* p, const Floats& value) {
  for (int i = 0; i < 4; i++) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(value.part[i])));
}
inline void store(float* p, const Floats& value, int count) {
  if (count == 16) {
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, value.part[i]);
  } else {
    float all[16];
    for (int i = 0; i < 4; i++) vst1q_f32(all + 4 * i, value.part[i]);
    std::memcpy(p, all, 4 * count);
  }
}

}  // namespace tramontane
