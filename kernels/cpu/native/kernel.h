// What linear.cpp calls of a format: product.cpp has one for each.
#pragma once
#include <type_traits>
#include <vector>

#include "blocks.h"

namespace tramontane {

// Rows of activations go through the products in portions of 8, 4, 2 and 1, the largest first. One group of columns of
// a portion of kM rows, quantised:
template <int kM>
struct Piece {
  int8_t codes[kM][kGroup];
  float scales[kM];
  // Minus the sum of the codes of the group, and of each of its halves, for what is subtracted from every weight's
  // code; and the same times the scale, for mins.
  int32_t sums[3][kM];
  float scaled_sums[3][kM];
};
constexpr long kPieceBytes = sizeof(Piece<1>);  // of a row; a portion's groups lie in a run

// Calls with the size of each portion and its first row.
template <class Body>
inline void in_portions(long rows, Body body) {
  long m = 0;
  const auto portion = [&](auto size) {
    for (; rows - m >= size; m += size) body(size, m);
  };
  portion(std::integral_constant<int, 8>());
  portion(std::integral_constant<int, 4>());
  portion(std::integral_constant<int, 2>());
  portion(std::integral_constant<int, 1>());
}

// The activations of a call, [M, K].
struct Activations {
  long columns;
  const float* x;
  std::vector<uint8_t> pieces;    // int8, each portion [K / 32] pieces
  std::vector<uint32_t> brains;   // bfloat16, each portion [K / 2, rows] pairs of neighbouring columns

  // Of the portion that begins with row m.
  template <int kM>
  const Piece<kM>* pieces_of(long m) const {
    return reinterpret_cast<const Piece<kM>*>(pieces.data() + m * (columns / kGroup) * kPieceBytes);
  }
};

// A tile times all rows of activations: `count` outputs of each go to y, `stride` apart.
using TileTimesAll = void (*)(const uint8_t* tile, const Activations& a, long rows, float* y, long stride, int count);
// The weights of one row of a tile.
using RowOfTile = void (*)(const uint8_t* tile, int row, long columns, float* out);

// What activations are rounded to unless products are to be exact.
enum class Rounding { kBytes, kBrains, kNone };

struct Kernel {
  Format format;
  TileTimesAll rounded, with_floats;
  RowOfTile row_of_tile;
  TileTimesAll two_rounded = nullptr;  // two tiles, where that is faster from `many_rows` on
  Rounding rounding = Rounding::kBytes;
  long many_rows = 32;
};

#define TR_DECLARE(number, name) extern const Kernel kernel_##name;
TR_FORMATS(TR_DECLARE)
#undef TR_DECLARE
extern const Kernel kernel_HQQ4, kernel_HQQ8;  // for hqq.cpp alone

}  // namespace tramontane
