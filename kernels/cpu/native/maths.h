// Functions of one float, in a form that a compiler makes vectors of: no branches, no calls. Within 2 units in the
// last place.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace tramontane {

// e^x. Below -87 it is 0, above 88 infinite; a NaN stays one.
inline float exponential(float x) {
  const float clipped = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float n = std::nearbyint(clipped * 1.44269504f);
  const float r = (clipped - n * 0.693359375f) + n * 2.12194440e-4f;
  // The coefficients of Cephes' expf.
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float value = p * (r * r) + (r + 1.0f);
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return x < -87.0f ? 0.0f : x > 88.0f ? INFINITY : value * power;
}

inline float tangent(float x) {  // hyperbolic
  const float size = std::fabs(x), square = x * x;
  const float far = 1.0f - 2.0f / (exponential(2.0f * size) + 1.0f);
  // The coefficients of Cephes' tanhf.
  float p = -5.70498872745e-3f;
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const float near = p * square * x + x;
  return size < 0.625f ? near : std::copysign(far, x);
}

}  // namespace tramontane
