// RMSNorm in float32, with or without a residual added first. Rows on their own, so their bits are the same in any
// batch.
#include <cmath>

#include <omp.h>

#include "vectors.h"

namespace {

constexpr long kRowsOfAThread = 16;  // fewer are done before another thread is awake

void norm_row(const float* x, const float* weight, float eps, long size, float* out) {
  float sums[16] = {};
  long i = 0;
  for (; i + 16 <= size; i += 16)
    for (int lane = 0; lane < 16; lane++) sums[lane] += x[i + lane] * x[i + lane];
  float sum = 0;
  for (; i < size; i++) sum += x[i] * x[i];
  for (int lane = 0; lane < 16; lane++) sum += sums[lane];
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(size) + eps);
  for (i = 0; i < size; i++) out[i] = x[i] * scale * weight[i];
}

}  // namespace

// x [rows, size]. With a residual, hidden = x + residual is written and normalised in the place of x.
extern "C" void tr_rms_norm(const float* x, const float* residual, const float* weight, float eps, long rows, long size,
                            int num_threads, float* hidden, float* out) {
#pragma omp parallel for num_threads(num_threads) if (rows >= kRowsOfAThread)
  for (long row = 0; row < rows; row++) {
    const float* in = x + row * size;
    if (residual) {
      for (long i = 0; i < size; i++) hidden[row * size + i] = in[i] + residual[row * size + i];
      in = hidden + row * size;
    }
    norm_row(in, weight, eps, size, out + row * size);
  }
}
