// y = x . W^T for weights in tiles (blocks.h), dequantised on the way; and rows of such a weight. What Python calls.
#include <algorithm>
#include <cmath>
#include <cstddef>

#include <omp.h>

#include "kernel.h"
#include "linear.h"
#include "vectors.h"

namespace tramontane {
namespace {

// Largest magnitude as the bits of a float: bits of magnitudes are in their order, and a NaN stays a NaN.
inline float largest_of(const float* x) {
  int32_t most = 0;
  for (int i = 0; i < kGroup; i++) {
    int32_t bits;
    std::memcpy(&bits, x + i, 4);
    bits &= 0x7fffffff;
    most = bits > most ? bits : most;
  }
  float value;
  std::memcpy(&value, &most, 4);
  return value;
}

void quantise_row(const float* x, long columns, int8_t* codes, float* scales, int32_t* sums, float* scaled_sums) {
  for (long group = 0; group < columns / kGroup; group++) {
    const float* in = x + group * kGroup;
    const float largest = largest_of(in), inverse = 127.0f / largest;
    // Of what has no inverse the scale alone speaks: infinite, no number, or as good as zero.
    const bool is_plain = largest > 1e-30f && largest < 1e38f;
    scales[group] = largest / 127.0f;
    int32_t rounded[kGroup];
    for (int i = 0; i < kGroup; i++) rounded[i] = static_cast<int32_t>(is_plain ? std::nearbyintf(in[i] * inverse) : 0.0f);
    for (int i = 0; i < kGroup; i++) codes[group * kGroup + i] = static_cast<int8_t>(rounded[i]);
    int32_t first = 0, second = 0;
    for (int i = 0; i < 16; i++) first += rounded[i], second += rounded[16 + i];
    const int32_t of[3] = {-first - second, -first, -second};
    for (int i = 0; i < 3; i++) sums[group * 3 + i] = of[i], scaled_sums[group * 3 + i] = of[i] * scales[group];
  }
}

const Kernel* find_kernel(int type) {
  switch (type) {
#define TR_CASE(number, name) \
  case number:                \
    return &kernel_##name;
    TR_FORMATS(TR_CASE)
#undef TR_CASE
    default:
      return nullptr;
  }
}

long bytes_of_tile(const Format& format, long columns) { return columns / format.block * format.superblock(); }

constexpr int kMaxWeights = 16;
constexpr long kPortions = 8;  // of a thread

}  // namespace
}  // namespace tramontane

using namespace tramontane;

// Which instructions the products use.
extern "C" const char* tr_path() { return kPath; }

// Bytes of the tiles of a [rows, columns] weight; 0: there are none of that type.
extern "C" long tr_tiles_bytes(int type, long rows, long columns) {
  const Kernel* kernel = find_kernel(type);
  if (!kernel || columns % kernel->format.block) return 0;
  return (rows + kRows - 1) / kRows * bytes_of_tile(kernel->format, columns);
}

// out[count, columns] = chosen rows of a weight.
extern "C" void tr_rows(const TrWeight* weight, long columns, const int64_t* indices, long count, float* out) {
  const Kernel* kernel = find_kernel(weight->type);
  const long tile_bytes = bytes_of_tile(kernel->format, columns);
  for (long i = 0; i < count; i++) {
    const uint8_t* tile = weight->tiles + indices[i] / kRows * tile_bytes;
    kernel->row_of_tile(tile, static_cast<int>(indices[i] % kRows), columns, out + i * columns);
  }
}

// y[M, sum of rows] = x[M, K] . [W1; W2; ...]^T. `exact`: float activations. At most kMaxWeights of known types.
extern "C" void tr_linear(const TrWeight* weights, int num_weights, const float* x, long num_rows, long columns,
                          int exact, int num_threads, float* y) {
  static thread_local Activations a;
  const long num_groups = columns / kGroup;
  a.columns = columns, a.x = x;
  if (!exact) {
    a.codes.resize(num_rows * columns);
    a.scales.resize(num_rows * num_groups);
    a.sums.resize(num_rows * num_groups * 3);
    a.scaled_sums.resize(num_rows * num_groups * 3);
  }
  const Kernel* kernels[kMaxWeights];
  long first_tile[kMaxWeights + 1] = {}, first_column[kMaxWeights + 1] = {};
  for (int i = 0; i < num_weights; i++) {
    kernels[i] = find_kernel(weights[i].type);
    first_tile[i + 1] = first_tile[i] + (weights[i].rows + kRows - 1) / kRows;
    first_column[i + 1] = first_column[i] + weights[i].rows;
  }
  const long num_tiles = first_tile[num_weights], stride = first_column[num_weights];
  const long portion = std::max<long>(1, num_tiles / (num_threads * kPortions));
  Activations& shared = a;
#pragma omp parallel num_threads(num_threads)
  {
    const long thread = omp_get_thread_num(), team = omp_get_num_threads();
    if (!exact) {
      for (long m = thread; m < num_rows; m += team)
        quantise_row(x + m * columns, columns, shared.codes.data() + m * columns, shared.scales.data() + m * num_groups,
                     shared.sums.data() + m * num_groups * 3, shared.scaled_sums.data() + m * num_groups * 3);
#pragma omp barrier
    }
    // In small portions, for a thread may be kept from its core. Portions come in order, so `w` only grows.
    int w = 0;
#pragma omp for schedule(dynamic, portion)
    for (long t = 0; t < num_tiles; t++) {
      while (t >= first_tile[w + 1]) w++;
      const Kernel& kernel = *kernels[w];
      const long tile = t - first_tile[w], left = weights[w].rows - tile * kRows;
      (exact ? kernel.with_floats : kernel.with_bytes)(
          weights[w].tiles + tile * bytes_of_tile(kernel.format, columns), shared, num_rows,
          y + first_column[w] + tile * kRows, stride, left < kRows ? static_cast<int>(left) : kRows);
    }
  }
}
