// RMSNorm of one row in float32. Its bits depend on the row alone.
#pragma once
#include <cmath>

namespace tramontane {

// `out` may be `x`.
inline void norm_row(const float* x, const float* weight, float eps, long size, float* out) {
  float sums[16] = {};
  long i = 0;
  for (; i + 16 <= size; i += 16)
    for (int lane = 0; lane < 16; lane++) sums[lane] += x[i + lane] * x[i + lane];
  float sum = 0;
  for (; i < size; i++) sum += x[i] * x[i];
  for (int lane = 0; lane < 16; lane++) sum += sums[lane];
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(size) + eps);
#pragma GCC ivdep  // a number is read before it is written, also where all is one place
  for (i = 0; i < size; i++) out[i] = x[i] * scale * weight[i];
}

}  // namespace tramontane
