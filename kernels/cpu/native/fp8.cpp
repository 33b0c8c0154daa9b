// The product with E4M3 weights (packed.py's FP8 kinds). Their range is too wide for integers, so activations are
// float32, or bfloat16 where the machine multiplies that and others are int8; every weight is what its bytes say. A
// row's sums have one order in any batch.
#include <utility>

#include "e4m3.h"
#include "kernel.h"

#define TR_INLINE __attribute__((always_inline))
#define TR_UNROLL _Pragma("GCC unroll 8")

namespace tramontane {
namespace {

constexpr long kAhead = 2048;  // bytes of a tile that are asked for before their use

// What kM rows' products with a tile are: even and odd columns, or pairs of them, of a superblock have a sum each.
template <int kM>
struct Sums {
  Floats total[kM], even[kM], odd[kM];

  TR_INLINE Sums() { TR_UNROLL for (int r = 0; r < kM; r++) total[r] = zeros(); }
  TR_INLINE void begin() { TR_UNROLL for (int r = 0; r < kM; r++) even[r] = odd[r] = zeros(); }
  TR_INLINE void end(const uint8_t* superblock) {
    const Floats scale = load_floats(reinterpret_cast<const float*>(superblock));
    TR_UNROLL for (int r = 0; r < kM; r++)
      total[r] = multiply_add(multiply_add(even[r], floats(1), odd[r]), scale, total[r]);
  }
  TR_INLINE void put(float* y, long stride, int count) const {
    TR_UNROLL for (int r = 0; r < kM; r++) store(y + r * stride, total[r], count);
  }
};

template <Format F, int kM>
void tile_times_floats(const uint8_t* tile, const float* x, long columns, float* y, long stride, int count) {
  const Numbers numbers;
  Sums<kM> sums;
  for (long start = 0; start < columns; start += F.block, tile += F.superblock()) {
    sums.begin();
    for (int c = 0; c < F.block; c += 4) {
      Floats w[4];
      numbers.columns(tile + F.head + c * kRows, w);
      __builtin_prefetch(tile + F.head + c * kRows + kAhead);
      const float* in = x + start + c;
      TR_UNROLL for (int r = 0; r < kM; r++)
        TR_UNROLL for (int i = 0; i < 4; i += 2) {
          sums.even[r] = multiply_add(w[i], floats(in[r * columns + i]), sums.even[r]);
          sums.odd[r] = multiply_add(w[i + 1], floats(in[r * columns + i + 1]), sums.odd[r]);
        }
    }
    sums.end(tile);
  }
  sums.put(y, stride, count);
}

template <Format F>
void exact(const uint8_t* tile, const Activations& a, long rows, float* y, long stride, int count) {
  in_portions(rows, [&](auto size, long m) {
    constexpr int kM = size < kMostRows ? size : kMostRows;
    for (int i = 0; i < size; i += kM)
      tile_times_floats<F, kM>(tile, a.x + (m + i) * a.columns, a.columns, y + (m + i) * stride, stride, count);
  });
}

#ifdef TR_BRAINS

inline Floats dot_pairs(Floats sum, Ints weights, uint32_t pair) {
  return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)ints(static_cast<int32_t>(pair)));
}

template <Format F, int kM>
void tile_times_brains(const uint8_t* tile, const uint32_t* x, long columns, float* y, long stride, int count) {
  const Numbers numbers;
  Sums<kM> sums;
  for (long start = 0; start < columns; start += F.block, tile += F.superblock()) {
    sums.begin();
    for (int c = 0; c < F.block; c += 4, x += 2 * kM) {
      Ints first, second;
      numbers.pairs(tile + F.head + c * kRows, first, second);
      __builtin_prefetch(tile + F.head + c * kRows + kAhead);
      TR_UNROLL for (int r = 0; r < kM; r++) {
        sums.even[r] = dot_pairs(sums.even[r], first, x[r]);
        sums.odd[r] = dot_pairs(sums.odd[r], second, x[kM + r]);
      }
    }
    sums.end(tile);
  }
  sums.put(y, stride, count);
}

template <Format F>
void rounded(const uint8_t* tile, const Activations& a, long rows, float* y, long stride, int count) {
  in_portions(rows, [&](auto size, long m) {
    const uint32_t* x = a.brains.data() + m * (a.columns / 2);
    tile_times_brains<F, size>(tile, x, a.columns, y + m * stride, stride, count);
  });
}

#endif

template <Format F>
void row_of_tile(const uint8_t* tile, int row, long columns, float* out) {
  const float* value = e4m3_table().value;
  for (long start = 0; start < columns; start += F.block, tile += F.superblock()) {
    float scale;
    std::memcpy(&scale, tile + 4 * row, 4);
    for (int c = 0; c < F.block; c++)
      out[start + c] = value[tile[F.head + c / 4 * kQuadBytes + place_in_quad(row, c % 4)]] * scale;
  }
}

template <Format F>
constexpr Kernel kernel_of() {
#ifdef TR_BRAINS
  return {F, rounded<F>, exact<F>, row_of_tile<F>, nullptr, Rounding::kBrains};
#else
  return {F, exact<F>, exact<F>, row_of_tile<F>, nullptr, Rounding::kNone};
#endif
}

}  // namespace

const Kernel kernel_FP8_32 = kernel_of<kFP8_32>();
const Kernel kernel_FP8_64 = kernel_of<kFP8_64>();
const Kernel kernel_FP8_128 = kernel_of<kFP8_128>();

}  // namespace tramontane
