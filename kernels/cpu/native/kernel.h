// What linear.cpp calls of a format: product.cpp has one for each.
#pragma once
#include <vector>

#include "blocks.h"

namespace tramontane {

// The activations of a call, [M, K].
struct Activations {
  long columns;
  const float* x;
  std::vector<int8_t> codes;      // [M, K]
  std::vector<float> scales;      // [M, K / 32]
  // Minus the sum of the codes of a group and of its halves [M, K / 32, 3], for what is subtracted from every
  // weight's code; and the same times the scale, for mins.
  std::vector<int32_t> sums;
  std::vector<float> scaled_sums;
};

// A tile times all rows of activations: `count` outputs of each go to y, `stride` apart.
using TileTimesAll = void (*)(const uint8_t* tile, const Activations& a, long rows, float* y, long stride, int count);
// The weights of one row of a tile.
using RowOfTile = void (*)(const uint8_t* tile, int row, long columns, float* out);

struct Kernel {
  Format format;
  TileTimesAll with_bytes, with_floats;
  RowOfTile row_of_tile;
};

#define TR_DECLARE(number, name) extern const Kernel kernel_##name;
TR_FORMATS(TR_DECLARE)
#undef TR_DECLARE
extern const Kernel kernel_HQQ4, kernel_HQQ8;  // for hqq.cpp alone

}  // namespace tramontane
