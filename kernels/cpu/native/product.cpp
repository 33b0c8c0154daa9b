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
    if constexpr (F.block == 32) return subtract(zeros(), halves(head + 32));  // it is added there
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

// One tile times kM rows of int8 activations, starting at row m.
template <Format F, int kM>
inline TR_INLINE void tile_times_bytes(
    const uint8_t* tile, const Activations& a, long m, float* y, long stride, int count) {
  const long columns = a.columns;
  const int8_t* codes = a.codes.data() + m * columns;
  const float* scales = a.scales.data() + m * (columns / 32);
  const int32_t* sums = a.sums.data() + m * (columns / 32) * 3;
  const float* scaled_sums = a.scaled_sums.data() + m * (columns / 32) * 3;
  Floats total[kM];
  unrolled<kM>([&](auto r) TR_INLINE { total[r] = zeros(); });
  for (long start = 0; start < columns; start += F.block, tile += F.superblock()) {
    const Scales<F> of_block(tile);
    for (int g = 0; g < F.block / kGroup; g++) {
      const uint8_t* head = tile + F.head + g * (F.group_head + F.codes);
      const long group = start / kGroup + g;
      unrolled<32 / F.sub>([&](auto part) TR_INLINE {
        constexpr int kFirst = part * 4, kNum = F.sub / 4;
        constexpr int kSum = F.sub == 32 ? 0 : 1 + part;
        Ints sum[kM];
        unrolled<kM>([&](auto r) TR_INLINE {
          sum[r] = times<F.offset>(ints(sums[(r * (columns / 32) + group) * 3 + kSum]));
        });
        unrolled<kNum>([&](auto i) TR_INLINE {
          const Ints w = of_block.values(codes_of<F, kFirst + i>(head + F.group_head));
          unrolled<kM>([&](auto r) TR_INLINE {
            int32_t four;
            std::memcpy(&four, codes + r * columns + group * kGroup + 4 * (kFirst + i), 4);
            sum[r] = dot(sum[r], w, four);
          });
        });
        const Floats scale = of_block.scale(head, part);
        unrolled<kM>([&](auto r) TR_INLINE {
          const Floats by = multiply(scale, floats(scales[r * (columns / 32) + group]));
          total[r] = multiply_add(to_floats(sum[r]), by, total[r]);
        });
        if constexpr (F.has_min) {
          const Floats min = of_block.min(head, part);
          unrolled<kM>([&](auto r) TR_INLINE {
            const float scaled_sum = scaled_sums[(r * (columns / 32) + group) * 3 + kSum];
            total[r] = multiply_add(min, floats(scaled_sum), total[r]);
          });
        }
      });
    }
  }
  unrolled<kM>([&](auto r) TR_INLINE { store(y + r * stride, total[r], count); });
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

// All rows of the activations, in portions that fit the registers.
template <Format F, bool kExact>
void tile_times_all(const uint8_t* tile, const Activations& a, long rows, float* y, long stride, int count) {
  long m = 0;
  const auto portion = [&](auto size) {
    for (; rows - m >= size; m += size) {
      float* out = y + m * stride;
      if constexpr (kExact) tile_times_floats<F, size>(tile, a, m, out, stride, count);
      else tile_times_bytes<F, size>(tile, a, m, out, stride, count);
    }
  };
  portion(std::integral_constant<int, 8>());
  portion(std::integral_constant<int, 4>());
  if constexpr (!kExact) portion(std::integral_constant<int, 2>());
  portion(std::integral_constant<int, 1>());
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
    kFormat, tile_times_all<kFormat, false>, tile_times_all<kFormat, true>, row_of_tile<kFormat>};

}  // namespace tramontane
