// Activations as products take them: rounded to int8 or to bfloat16, and laid out in portions of rows.
#pragma once
#include <cmath>

#include "kernel.h"

namespace tramontane {

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
inline void quantise_group(const float* in, uint8_t* piece, long size, long r) {
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

// To the nearest bfloat16, or the even one of two; no number stays no number.
inline uint32_t to_brain(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t nearest = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  return (bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : nearest;
}

// Calls with the first row of each portion and its size.
template <class Body>
inline void each_portion(long rows, Body body) {
  for (long m = 0, size = 8; m < rows; m += size) {
    while (size > rows - m) size /= 2;
    body(m, size);
  }
}

// All rows of some groups into `a.pieces`.
inline void quantise(long rows, Activations& a, long first_group, long last_group) {
  each_portion(rows, [&](long m, long size) {
    uint8_t* pieces = a.pieces.data() + m * (a.columns / kGroup) * kPieceBytes;
    for (long group = first_group; group < last_group; group++)
      for (long r = 0; r < size; r++)
        quantise_group(a.x + (m + r) * a.columns + group * kGroup, pieces + group * size * kPieceBytes, size, r);
  });
}

// All rows of some groups into `a.brains`: a group of a portion is rounded in rows, and then goes out in columns.
inline void round_to_brains(long rows, Activations& a, long first_group, long last_group) {
  constexpr long kPairs = kGroup / 2;
  each_portion(rows, [&](long m, long size) {
    for (long group = first_group; group < last_group; group++) {
      uint16_t rounded[8][kGroup];
      for (long r = 0; r < size; r++) {
        const float* x = a.x + (m + r) * a.columns + group * kGroup;
        for (long c = 0; c < kGroup; c++) rounded[r][c] = static_cast<uint16_t>(to_brain(x[c]));
      }
      uint32_t* out = a.brains.data() + m * (a.columns / 2) + group * kPairs * size;
      for (long pair = 0; pair < kPairs; pair++)
        for (long r = 0; r < size; r++) std::memcpy(out + pair * size + r, rounded[r] + 2 * pair, 4);
    }
  });
}

}  // namespace tramontane
