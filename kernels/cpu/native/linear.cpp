// y = x . W^T for weights in tiles (blocks.h), dequantised on the way; and rows of such a weight. What Python calls.
#include <algorithm>
#include <cstddef>

#include <omp.h>

#include "activations.h"
#include "kernel.h"
#include "linear.h"
#include "vectors.h"

namespace tramontane {
namespace {

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
  const Kernel* kernels[kMaxWeights];
  long first_pair[kMaxWeights + 1] = {}, first_column[kMaxWeights + 1] = {};
  bool takes_bytes = false, takes_brains = false;
  for (int i = 0; i < num_weights; i++) {
    kernels[i] = find_kernel(weights[i].type);
    takes_bytes |= !exact && kernels[i]->rounding == Rounding::kBytes;
    takes_brains |= !exact && kernels[i]->rounding == Rounding::kBrains;
    first_pair[i + 1] = first_pair[i] + (weights[i].rows + 2 * kRows - 1) / (2 * kRows);
    first_column[i + 1] = first_column[i] + weights[i].rows;
  }
  const long num_pairs = first_pair[num_weights], stride = first_column[num_weights];
  const long portion = std::max<long>(1, num_pairs / (num_threads * kPortions));
  if (takes_bytes) a.pieces.resize(num_rows * num_groups * kPieceBytes);
  if (takes_brains) a.brains.resize(num_rows * columns / 2);
  Activations& shared = a;
#pragma omp parallel num_threads(num_threads)
  {
    const long thread = omp_get_thread_num(), team = omp_get_num_threads();
    const long first_group = num_groups * thread / team, last_group = num_groups * (thread + 1) / team;
    if (takes_bytes) quantise(num_rows, shared, first_group, last_group);
    if (takes_brains) round_to_brains(num_rows, shared, first_group, last_group);
    if (takes_bytes || takes_brains) {
#pragma omp barrier
    }
    // In small portions, for a thread may be kept from its core. Portions come in order, so `w` only grows.
    int w = 0;
#pragma omp for schedule(dynamic, portion)
    for (long pair = 0; pair < num_pairs; pair++) {
      while (pair >= first_pair[w + 1]) w++;
      const Kernel& kernel = *kernels[w];
      const long row = (pair - first_pair[w]) * 2 * kRows, left = std::min<long>(weights[w].rows - row, 2 * kRows);
      const long tile_bytes = bytes_of_tile(kernel.format, columns);
      const uint8_t* tiles = weights[w].tiles + row / kRows * tile_bytes;
      float* out = y + first_column[w] + row;
      if (!exact && kernel.two_rounded && num_rows >= kernel.many_rows && left > kRows) {
        kernel.two_rounded(tiles, shared, num_rows, out, stride, static_cast<int>(left));
        continue;
      }
      for (long done = 0; done < left; done += kRows, tiles += tile_bytes)
        (exact ? kernel.with_floats : kernel.rounded)(
            tiles, shared, num_rows, out + done, stride, static_cast<int>(std::min<long>(left - done, kRows)));
    }
  }
}
