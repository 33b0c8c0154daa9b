// RMSNorm with or without a residual added first. Rows on their own, so their bits are the same in any batch.
#include "norm.h"

#include <omp.h>

using namespace tramontane;

constexpr long kRowsOfAThread = 16;  // fewer are done before another thread is awake

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
