// y = x . W^T for weights in tiles (blocks.h), dequantised on the way; and rows of such a weight. What Python calls.
#include <algorithm>
#include <cmath>
#include <cstddef>

#include <omp.h>

#include "kernel.h"
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

// One group of a row, as row `r` of a piece of `size` rows.
void quantise_group(const float* in, uint8_t* piece, long size, long r) {
  const float largest = largest_of(in), inverse = 127.0f / largest, scale = largest / 127.0f;
  // Of what has no inverse the scale alone speaks: infinite, no number, or as good as zero.
  const bool is_plain = largest > 1e-30f && largest < 1e38f;
  int32_t rounded[kGroup];
  for (int i = 0; i < kGroup; i++) rounded[i] = static_cast<int32_t>(is_plain ? std::nearbyintf(in[i] * inverse) : 0.0f);
  auto* codes = reinterpret_cast<int8_t*>(piece) + r * kGroup;
  for (int i = 0; i < kGroup; i++) codes[i] = static_cast<int8_t>(rounded[i]);
  int32_t first = 0, second = 0;
  for (int i = 0; i < 16; i++) first += rounded[i], second += rounded[16 + i];
  auto* scales = reinterpret_cast<float*>(piece + size * kGroup);
  auto* sums = reinterpret_cast<int32_t*>(scales + size);
  auto* scaled_sums = reinterpret_cast<float*>(sums + 3 * size);
  scales[r] = scale;
  const int32_t of[3] = {-first - second, -first, -second};
  for (int i = 0; i < 3; i++) sums[i * size + r] = of[i], scaled_sums[i * size + r] = of[i] * scale;
}

// All rows of some groups.
void quantise(const float* x, long rows, Activations& a, long first_group, long last_group) {
  const long num_groups = a.columns / kGroup;
  for (long m = 0, size = 8; m < rows; m += size) {
    while (size > rows - m) size /= 2;
    uint8_t* pieces = a.pieces.data() + m * num_groups * kPieceBytes;
    for (long r = 0; r < size; r++)
      for (long group = first_group; group < last_group; group++)
        quantise_group(x + (m + r) * a.columns + group * kGroup, pieces + group * size * kPieceBytes, size, r);
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
constexpr long kPortions = 8;   // of a thread
constexpr long kManyRows = 16;  // of activations, worth unpacking weights into memory

}  // namespace
}  // namespace tramontane

using namespace tramontane;

// One of several weights that share their input. `type` is GGML's number.
struct TrWeight {
  const uint8_t* tiles;
  long type, rows;
};

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
  if (!exact) a.pieces.resize(num_rows * num_groups * kPieceBytes);
  const Kernel* kernels[kMaxWeights];
  long first_pair[kMaxWeights + 1] = {}, first_column[kMaxWeights + 1] = {};
  for (int i = 0; i < num_weights; i++) {
    kernels[i] = find_kernel(weights[i].type);
    first_pair[i + 1] = first_pair[i] + (weights[i].rows + 2 * kRows - 1) / (2 * kRows);
    first_column[i + 1] = first_column[i] + weights[i].rows;
  }
  const long num_pairs = first_pair[num_weights], stride = first_column[num_weights];
  const long portion = std::max<long>(1, num_pairs / (num_threads * kPortions));
  Activations& shared = a;
#pragma omp parallel num_threads(num_threads)
  {
    const long thread = omp_get_thread_num(), team = omp_get_num_threads();
    if (!exact) {
      quantise(x, num_rows, shared, num_groups * thread / team, num_groups * (thread + 1) / team);
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
      if (!exact && kernel.two_with_bytes && num_rows >= kManyRows && left > kRows) {
        kernel.two_with_bytes(tiles, shared, num_rows, out, stride, static_cast<int>(left));
        continue;
      }
      for (long done = 0; done < left; done += kRows, tiles += tile_bytes)
        (exact ? kernel.with_floats : kernel.with_bytes)(
            tiles, shared, num_rows, out + done, stride, static_cast<int>(std::min<long>(left - done, kRows)));
    }
  }
}
