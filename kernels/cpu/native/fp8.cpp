// The product with E4M3 weights (packed.py's FP8 kinds). Their range is too wide for integers, so activations are
// float32 even where others are int8: every weight is what its bytes say. A row's sums have one order in any batch.
#include <utility>

#include "kernel.h"
#include "lookup.h"

namespace tramontane {
namespace {

// One superblock's numbers times kM rows of activations `x`, `stride` apart: to be scaled yet.
template <int kM>
inline __attribute__((always_inline)) void multiply_block(
    const uint8_t* codes, const float* x, long stride, long columns, Floats* sum) {
  for (long c = 0; c < columns; c += 2) {
    Floats first, second;
    load_e4m3(codes + c * kRows, first, second);
#pragma GCC unroll 8
    for (int r = 0; r < kM; r++) {
      sum[r] = multiply_add(first, floats(x[r * stride + c]), sum[r]);
      sum[r] = multiply_add(second, floats(x[r * stride + c + 1]), sum[r]);
    }
  }
}

template <Format F, int kM>
void tile_times_rows(const uint8_t* tile, const Activations& a, long m, float* y, long stride, int count) {
  const float* x = a.x + m * a.columns;
  Floats total[kM];
#pragma GCC unroll 8
  for (int r = 0; r < kM; r++) total[r] = zeros();
  for (long start = 0; start < a.columns; start += F.block, tile += F.superblock()) {
    Floats sum[kM];
#pragma GCC unroll 8
    for (int r = 0; r < kM; r++) sum[r] = zeros();
    multiply_block<kM>(tile + F.head, x + start, a.columns, F.block, sum);
    const Floats scale = load_floats(reinterpret_cast<const float*>(tile));
#pragma GCC unroll 8
    for (int r = 0; r < kM; r++) total[r] = multiply_add(sum[r], scale, total[r]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kM; r++) store(y + r * stride, total[r], count);
}

template <Format F>
void tile_times_all(const uint8_t* tile, const Activations& a, long rows, float* y, long stride, int count) {
  long m = 0;
  const auto portion = [&](auto size) {
    for (; rows - m >= size; m += size) tile_times_rows<F, size>(tile, a, m, y + m * stride, stride, count);
  };
  portion(std::integral_constant<int, 8>());
  portion(std::integral_constant<int, 4>());
  portion(std::integral_constant<int, 2>());
  portion(std::integral_constant<int, 1>());
}

template <Format F>
void row_of_tile(const uint8_t* tile, int row, long columns, float* out) {
  for (long start = 0; start < columns; start += F.block, tile += F.superblock()) {
    float scale;
    std::memcpy(&scale, tile + 4 * row, 4);
    for (int c = 0; c < F.block; c++) out[start + c] = e4m3(tile[F.head + c * kRows + row]) * scale;
  }
}

template <Format F>
constexpr Kernel kernel_of() { return {F, tile_times_all<F>, tile_times_all<F>, row_of_tile<F>}; }

}  // namespace

const Kernel kernel_FP8_32 = kernel_of<kFP8_32>();
const Kernel kernel_FP8_64 = kernel_of<kFP8_64>();
const Kernel kernel_FP8_128 = kernel_of<kFP8_128>();

}  // namespace tramontane
