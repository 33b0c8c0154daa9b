// The product with the weights of one format, TR_FORMAT: this file is compiled once for each. Activations are int8 in
// groups of 32 columns, or float32; the second is exact up to the order of the sums. That order does not depend on
// the number of rows, so a row's result is the same bits in any batch.
#include <utility>

#include "kernel.h"
#include "scales.h"
#include "vectors.h"

#define TR_INLINE __attribute__((always_inline))
#define TR_PASTE(a, b) a##b
#define TR_JOIN(a, b) TR_PASTE(a, b)

namespace tramontane {
namespace {

// Vector j of a group's codes: columns 4j to 4j + 3 of all rows.
template <Format F, int j>
inline Ints codes_of(const uint8_t* p) {
  if constexpr (F.codes == 512) return load_codes(p + 64 * j);
  if constexpr (F.codes == 128) return field<j / 2 * 2, 3>(load_codes(p + 64 * (j % 2)));
  if constexpr (F.codes == 192)
    return merge<2>(codes_of<Format{0, 0, 0, 0, 0, 0, 128}, j>(p), field<j, 1>(load_codes(p + 128)));
  if constexpr (F.codes >= 256) {
    const Ints low = field<j / 4 * 4, 15>(load_codes(p + 64 * (j % 4)));
    if constexpr (F.codes == 256) return low;
    if constexpr (F.codes == 320) return merge<4>(low, field<j, 1>(load_codes(p + 256)));
    if constexpr (F.codes == 384)
      return merge<4>(low, field<j / 2 * 2, 3>(load_codes(p + 256 + 64 * (j % 2))));
  }
}

// The scales and mins of one half of a group (of both, where kSub is 32).
template <Format F>
struct Scales {
  static constexpr int kMost = (1 << F.codes / 64) - 1;  // no code is above: `codes` are 512 of them
  Floats d, dmin;

  explicit Scales(const uint8_t* superblock) {
    if constexpr (F.block == 256) d = halves(superblock);
    if constexpr (F.block == 256 && F.has_min) dmin = halves(superblock + 32);
  }
  Floats scale(const uint8_t* head, int half) const {
    if constexpr (F.block == 32) return halves(head);
    else if constexpr (F.sub == 32) return multiply(d, bytes(head));
    else if constexpr (F.has_min) return multiply(d, low_nibbles(head + 16 * half));
    else return multiply(d, signed_bytes(head + 16 * half));
  }
  Floats min(const uint8_t* head, int half) const {
    if constexpr (F.block == 32) return multiply(floats(-1), halves(head + 32));  // it is added; 0 - x would lose a zero's sign
    else if constexpr (F.sub == 32) return multiply(dmin, bytes(head + 16));
    else return multiply(dmin, high_nibbles(head + 16 * half));
  }
  static Ints values(Ints codes) { return codes; }
  static int value(int code) { return code; }
};

template <int kCount, class Body>
inline TR_INLINE void unrolled(Body body) {
  [&]<int... i>(std::integer_sequence<int, i...>) TR_INLINE {
    (body(std::integral_constant<int, i>()), ...);
  }(std::make_integer_sequence<int, kCount>());
}

inline int32_t four_codes(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, 4);
  return four;
}

// kTiles tiles times a group of kM rows of activations, from row kFirst of a piece, added to `total`. `codes(t, j)` is
// vector j of tile t; `scale` and `min` take a tile and a half.
template <Format F, int kTiles, int kM, int kFirst = 0, int kIn, class Codes, class Scale, class Min>
inline TR_INLINE void add_group(Floats (&total)[kTiles][kM], const Piece<kIn>& in, Codes codes, Scale scale, Min min) {
  Floats scaled[kTiles][kM];
  unrolled<32 / F.sub>([&](auto part) TR_INLINE {
    constexpr int kSum = F.sub == 32 ? 0 : 1 + part, kNum = F.sub / 4;
    Ints sum[kTiles][kM];
    unrolled<kM>([&](auto r) TR_INLINE {
      const Ints start = times<F.offset>(ints(in.sums[kSum][kFirst + r]));
      unrolled<kTiles>([&](auto t) TR_INLINE { sum[t][r] = start; });
    });
    unrolled<kNum>([&](auto i) TR_INLINE {
      constexpr int kVector = part * kNum + i;
      Ints w[kTiles];
      unrolled<kTiles>([&](auto t) TR_INLINE { w[t] = codes(t, std::integral_constant<int, kVector>()); });
      unrolled<kM>([&](auto r) TR_INLINE {
        const int32_t four = four_codes(in.codes[kFirst + r] + 4 * kVector);
        unrolled<kTiles>([&](auto t) TR_INLINE { sum[t][r] = dot<Scales<F>::kMost>(sum[t][r], w[t], four); });
      });
    });
    unrolled<kTiles>([&](auto t) TR_INLINE {
      const Floats by = scale(t, part);
      unrolled<kM>([&](auto r) TR_INLINE {
        const Floats value = to_floats(sum[t][r]);
        scaled[t][r] = part == 0 ? multiply(value, by) : multiply_add(value, by, scaled[t][r]);
      });
    });
    if constexpr (F.has_min) {
      unrolled<kTiles>([&](auto t) TR_INLINE {
        const Floats less = min(t, part);
        unrolled<kM>([&](auto r) TR_INLINE {
          total[t][r] = multiply_add(less, floats(in.scaled_sums[kSum][kFirst + r]), total[t][r]);
        });
      });
    }
  });
  unrolled<kM>([&](auto r) TR_INLINE {
    unrolled<kTiles>([&](auto t) TR_INLINE {
      total[t][r] = multiply_add(scaled[t][r], floats(in.scales[kFirst + r]), total[t][r]);
    });
  });
}

constexpr long kAhead = 8192;  // bytes of a tile that are asked for before their use

// One tile times kM rows of int8 activations, which begin at row kFirst of a portion of kIn.
template <Format F, int kM, int kFirst, int kIn>
inline TR_INLINE void tile_times_bytes(
    const uint8_t* tile, long columns, const Piece<kIn>* piece, float* y, long stride, int count) {
  Floats total[1][kM];
  unrolled<kM>([&](auto r) TR_INLINE { total[0][r] = zeros(); });
  for (long start = 0; start < columns; start += F.block, tile += F.superblock()) {
    const Scales<F> of_block(tile);
    for (int g = 0; g < F.block / kGroup; g++, piece++) {
      const uint8_t* head = tile + F.head + g * (F.group_head + F.codes);
      // One row of eight-bit codes is no work: there the processor's own prefetching is faster.
      if constexpr (kM > 1 || F.codes < 512)
        for (int i = 0; i < F.group_head + F.codes; i += 64) __builtin_prefetch(head + kAhead + i);
      add_group<F, 1, kM, kFirst>(
          total, *piece, [&](auto, auto j) TR_INLINE { return of_block.values(codes_of<F, j>(head + F.group_head)); },
          [&](auto, auto half) TR_INLINE { return of_block.scale(head, half); },
          [&](auto, auto half) TR_INLINE { return of_block.min(head, half); });
    }
  }
  unrolled<kM>([&](auto r) TR_INLINE { store(y + (kFirst + r) * stride, total[0][r], count); });
}

// Some columns of two tiles, unpacked once for many rows.
constexpr int kPanel = 256;
constexpr int kPanelRows = kMostRows / 2;  // of activations at a time, by two tiles
struct Panel {
  alignas(64) uint8_t codes[kPanel / kGroup][8][2][64];
  alignas(64) float scales[kPanel / kGroup][2][2][kRows], mins[kPanel / kGroup][2][2][kRows];

  Ints codes_of(int g, int t, int j) const { return load_codes(codes[g][j][t]); }
  Floats scale(int g, int t, int half) const { return load_floats(scales[g][half][t]); }
  Floats min(int g, int t, int half) const { return load_floats(mins[g][half][t]); }
};

// The same of codes that are bytes already, as they lie.
template <Format F>
struct InPlace {
  static constexpr bool kIsPossible = F.codes == 512 && F.block == kGroup && F.scaling == kGgml;
  const uint8_t* tiles[2];

  const uint8_t* head(int g, int t) const { return tiles[t] + g * F.superblock(); }
  Ints codes_of(int g, int t, int j) const { return load_codes(head(g, t) + F.group_head + 64 * j); }
  Floats scale(int g, int t, int half) const { return Scales<F>(nullptr).scale(head(g, t), half); }
  Floats min(int, int, int) const { return zeros(); }
};

template <Format F>
inline void unpack(const uint8_t* tile, int num_groups, int t, Panel& panel) {
  constexpr int kGroups = F.block / kGroup;
  for (int first = 0; first < num_groups; first += kGroups, tile += F.superblock()) {
    const Scales<F> of_block(tile);
    for (int i = 0; i < kGroups; i++) {
      const int g = first + i;
      const uint8_t* head = tile + F.head + i * (F.group_head + F.codes);
      unrolled<8>([&](auto j) TR_INLINE {
        store_codes(panel.codes[g][j][t], of_block.values(codes_of<F, j>(head + F.group_head)));
      });
      unrolled<32 / F.sub>([&](auto half) TR_INLINE {
        store(panel.scales[g][half][t], of_block.scale(head, half), kRows);
        if constexpr (F.has_min) store(panel.mins[g][half][t], of_block.min(head, half), kRows);
      });
    }
  }
}

// Where the totals of two tiles are between panels, [M, 2 * kRows], and where they go after the last.
struct Totals {
  float *between, *y;
  long stride;
  int count;
  bool is_first, is_last;
};

// Adds a panel's product with kM rows, from row kFirst of each piece, to their totals. Calls `ask` for each group, or,
// where it would take registers that halves of groups need, once.
template <Format F, int kM, int kFirst, class Source, int kIn, class Ask>
inline TR_INLINE void add_panel(
    const Source& panel, int num_groups, const Piece<kIn>* piece, const Totals& totals, long m, Ask ask) {
  Floats total[2][kM];
  float* between = totals.between + m * 2 * kRows;
  unrolled<kM>([&](auto r) TR_INLINE {
    for (int t = 0; t < 2; t++) total[t][r] = totals.is_first ? zeros() : load_floats(between + (2 * r + t) * kRows);
  });
  if constexpr (F.sub == 16) ask();
  for (int g = 0; g < num_groups; g++) {
    if constexpr (F.sub == 32) ask();
    add_group<F, 2, kM, kFirst>(
        total, piece[g], [&](auto t, auto j) TR_INLINE { return panel.codes_of(g, t, j); },
        [&](auto t, auto half) TR_INLINE { return panel.scale(g, t, half); },
        [&](auto t, auto half) TR_INLINE { return panel.min(g, t, half); });
  }
  unrolled<kM>([&](auto r) TR_INLINE {
    float* y = totals.y + (m + r) * totals.stride;
    if (totals.is_last) store(y, total[0][r], kRows), store(y + kRows, total[1][r], totals.count - kRows);
    else for (int t = 0; t < 2; t++) store(between + (2 * r + t) * kRows, total[t][r], kRows);
  });
}

// Adds all rows of a panel.
template <Format F, class Source, class Ask>
inline TR_INLINE void add_rows(const Source& panel, int num_groups, const Activations& a, long first_group, long rows,
                               const Totals& totals, Ask ask) {
  in_portions(rows, [&](auto size, long m) {
    const auto* piece = a.pieces_of<size>(m) + first_group;
    constexpr int kM = size < kPanelRows ? size : kPanelRows;
    unrolled<size / kM>([&](auto i) TR_INLINE {
      add_panel<F, kM, i * kM>(panel, num_groups, piece, totals, m + i * kM, ask);
    });
  });
}

template <Format F>
void two_tiles_times_bytes(const uint8_t* tiles, const Activations& a, long rows, float* y, long stride, int count) {
  static thread_local std::vector<float> between;
  between.resize(rows * 2 * kRows);
  const long tile_bytes = a.columns / F.block * F.superblock();
  for (long start = 0; start < a.columns; start += kPanel) {
    const long left = a.columns - start, first_group = start / kGroup;
    const int num_groups = (left < kPanel ? left : kPanel) / kGroup;
    const uint8_t* first = tiles + start / F.block * F.superblock();
    const Totals totals = {between.data(), y, stride, count, start == 0, left <= kPanel};
    // A little of what comes next with every group, so that memory is never idle. After this come two more tiles.
    constexpr int kBytes = kPanel / F.block * F.superblock();
    const uint8_t* next = totals.is_last ? tiles + 2 * tile_bytes : first + kBytes;
    const uint8_t* end = next + kBytes;
    const long num_steps = (F.sub == 32 ? kPanel / kGroup : 1) * (rows / kPanelRows);
    const long bytes = (kBytes + num_steps - 1) / num_steps;
    const auto ask = [&]() TR_INLINE {
      for (const uint8_t* until = next + bytes; next < until && next < end; next += 64)
        __builtin_prefetch(next), __builtin_prefetch(next + tile_bytes);
    };
    if constexpr (InPlace<F>::kIsPossible) {
      add_rows<F>(InPlace<F>{{first, first + tile_bytes}}, num_groups, a, first_group, rows, totals, ask);
    } else {
      Panel panel;
      for (int t = 0; t < 2; t++) unpack<F>(first + t * tile_bytes, num_groups, t, panel);
      add_rows<F>(panel, num_groups, a, first_group, rows, totals, ask);
    }
  }
}

// One tile times kM rows of float activations: each weight is dequantised once for all of them.
template <Format F, int kM>
inline TR_INLINE void tile_times_floats(
    const uint8_t* tile, const Activations& a, long m, float* y, long stride, int count) {
  const long columns = a.columns;
  const float* x = a.x + m * columns;
  Floats total[kM];
  unrolled<kM>([&](auto r) TR_INLINE { total[r] = zeros(); });
  for (long start = 0; start < columns; start += F.block, tile += F.superblock()) {
    const Scales<F> of_block(tile);
#pragma GCC unroll 1
    for (int g = 0; g < F.block / kGroup; g++) {
      const uint8_t* head = tile + F.head + g * (F.group_head + F.codes);
      const float* in = x + start + g * kGroup;
      unrolled<32 / F.sub>([&](auto part) TR_INLINE {
        constexpr int kFirst = part * 4, kNum = F.sub / 4;
        const Floats scale = of_block.scale(head, part);
        Floats min = zeros();
        if constexpr (F.has_min) min = of_block.min(head, part);
        unrolled<kNum>([&](auto i) TR_INLINE {
          const Ints codes = of_block.values(codes_of<F, kFirst + i>(head + F.group_head));
          unrolled<4>([&](auto c) TR_INLINE {
            Floats w = column<c>(codes);
            if constexpr (F.scaling == kAffine) w = multiply(subtract(w, of_block.zero), scale);
            else w = multiply(subtract(w, floats(F.offset)), scale);
            if constexpr (F.has_min && F.scaling != kAffine) w = subtract(w, min);
            unrolled<kM>([&](auto r) TR_INLINE {
              total[r] = multiply_add(w, floats(in[r * columns + 4 * (kFirst + i) + c]), total[r]);
            });
          });
        });
      });
    }
  }
  unrolled<kM>([&](auto r) TR_INLINE { store(y + r * stride, total[r], count); });
}

template <Format F, bool kExact>
void tile_times_all(const uint8_t* tile, const Activations& a, long rows, float* y, long stride, int count) {
  in_portions(rows, [&](auto size, long m) {
    float* out = y + m * stride;
    constexpr int kM = size < kMostRows ? size : kMostRows;
    unrolled<size / kM>([&](auto i) TR_INLINE {
      if constexpr (kExact) tile_times_floats<F, kM>(tile, a, m + i * kM, out + i * kM * stride, stride, count);
      else tile_times_bytes<F, kM, i * kM>(tile, a.columns, a.pieces_of<size>(m), out, stride, count);
    });
  });
}

// The code of column c of a group.
template <Format F>
int code_at(const uint8_t* codes, int row, int c) {
  const int vector = c / 4, byte = row * 4 + c % 4;
  if constexpr (F.codes == 512) return codes[vector * 64 + byte];
  if constexpr (F.codes < 256) {
    const int low = (codes[vector % 2 * 64 + byte] >> (vector / 2 * 2)) & 3;
    return F.codes == 128 ? low : low | ((codes[128 + byte] >> vector) & 1) << 2;
  }
  const int low = (codes[vector % 4 * 64 + byte] >> (vector / 4 * 4)) & 15;
  if constexpr (F.codes == 320) return low | ((codes[256 + byte] >> vector) & 1) << 4;
  if constexpr (F.codes == 384) return low | ((codes[256 + vector % 2 * 64 + byte] >> (vector / 2 * 2)) & 3) << 4;
  return low;
}

template <Format F>
void row_of_tile(const uint8_t* tile, int row, long columns, float* out) {
  for (long start = 0; start < columns; start += F.block, tile += F.superblock()) {
    const Scales<F> of_block(tile);
    for (int g = 0; g < F.block / kGroup; g++) {
      const uint8_t* head = tile + F.head + g * (F.group_head + F.codes);
      for (int half = 0; half < 32 / F.sub; half++) {
        float scales[kRows], mins[kRows] = {}, zeros[kRows] = {};
        store(scales, of_block.scale(head, half), kRows);
        if constexpr (F.scaling == kAffine) store(zeros, of_block.zero, kRows);
        else if constexpr (F.has_min) store(mins, of_block.min(head, half), kRows);
        for (int c = half * F.sub; c < (half + 1) * F.sub; c++) {
          const float code = static_cast<float>(of_block.value(code_at<F>(head + F.group_head, row, c)) - F.offset);
          out[start + g * kGroup + c] = (code - zeros[row]) * scales[row] - mins[row];
        }
      }
    }
  }
}

}  // namespace

constexpr Format kFormat = TR_JOIN(k, TR_FORMAT);
const Kernel TR_JOIN(kernel_, TR_FORMAT) = {
    kFormat, tile_times_all<kFormat, false>, tile_times_all<kFormat, true>, row_of_tile<kFormat>,
    kMostRows >= 8 ? two_tiles_times_bytes<kFormat> : nullptr, Rounding::kBytes,
    // Weights are unpacked into memory, unless they lie there, and what is not yet in the cache is waited for.
    InPlace<kFormat>::kIsPossible ? 12 : 32};

}  // namespace tramontane
