// The product with weights that are floats, BF16 or F16. Activations are float32, and the result exact up to the order of
// the sums; or, with BF16 on a machine that multiplies them, rounded to bfloat16. Even and odd pairs (columns, where
// activations are float32) have a sum each, in an order that does not depend on the number of rows.
#include <utility>

#include "kernel.h"
#include "vectors.h"

#if defined(TR_AVX512) && defined(__AVX512BF16__)
#define TR_BRAINS 1
#endif

#define TR_INLINE __attribute__((always_inline))
// Sums of all rows stay in registers where loops over them are unrolled.
#define TR_UNROLL _Pragma("GCC unroll 8")

namespace tramontane {
namespace {

constexpr int kPairBytes = 2 * 2 * kRows;  // two columns of a tile
constexpr long kAhead = 8192;              // bytes of a tile that are asked for before their use

// Two columns of F16: sixteen numbers of one, then of the other.
struct Half {
  static void load(const uint8_t* p, Floats& even, Floats& odd) { even = halves(p), odd = halves(p + 2 * kRows); }
  static float at(const uint8_t* pair, int row, int odd) {
    uint16_t half;
    std::memcpy(&half, pair + odd * 2 * kRows + 2 * row, 2);
    return half_to_float(half);
  }
  static void put(uint8_t* pair, int row, const uint8_t* two) {
    std::memcpy(pair + 2 * row, two, 2);
    std::memcpy(pair + 2 * kRows + 2 * row, two + 2, 2);
  }
};

// Two columns of BF16: two numbers of each row, as a dot product of them takes.
struct Brain {
  static void load(const uint8_t* p, Floats& even, Floats& odd) {
#ifdef TR_AVX512
    const Ints both = load_codes(p);
    even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    odd = _mm512_castsi512_ps(_mm512_and_si512(both, ints(static_cast<int32_t>(0xffff0000u))));
#else
    uint32_t both[kRows], low[kRows], high[kRows];
    float values[2][kRows];
    std::memcpy(both, p, sizeof both);
    for (int i = 0; i < kRows; i++) low[i] = both[i] << 16, high[i] = both[i] & 0xffff0000u;
    std::memcpy(values[0], low, sizeof low);
    std::memcpy(values[1], high, sizeof high);
    even = load_floats(values[0]), odd = load_floats(values[1]);
#endif
  }
  static float at(const uint8_t* pair, int row, int odd) {
    uint16_t upper;
    std::memcpy(&upper, pair + 4 * row + 2 * odd, 2);
    const uint32_t bits = static_cast<uint32_t>(upper) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  static void put(uint8_t* pair, int row, const uint8_t* two) { std::memcpy(pair + 4 * row, two, 4); }
};

template <int kM>
inline TR_INLINE void store_rows(const Floats (&even)[kM], const Floats (&odd)[kM], float* y, long stride, int count) {
  TR_UNROLL for (int r = 0; r < kM; r++) store(y + r * stride, multiply_add(even[r], floats(1), odd[r]), count);
}

template <class Number, int kM>
inline TR_INLINE void tile_times_floats(const uint8_t* tile, const float* x, long columns, float* y, long stride, int count) {
  Floats even[kM], odd[kM];
  TR_UNROLL for (int r = 0; r < kM; r++) even[r] = odd[r] = zeros();
  for (long c = 0; c < columns; c += 2, tile += kPairBytes) {
    Floats first, second;
    Number::load(tile, first, second);
    __builtin_prefetch(tile + kAhead);
    TR_UNROLL for (int r = 0; r < kM; r++) {
      even[r] = multiply_add(first, floats(x[r * columns + c]), even[r]);
      odd[r] = multiply_add(second, floats(x[r * columns + c + 1]), odd[r]);
    }
  }
  store_rows<kM>(even, odd, y, stride, count);
}

template <class Number>
void exact(const uint8_t* tile, const Activations& a, long rows, float* y, long stride, int count) {
  in_portions(rows, [&](auto size, long m) {
    constexpr int kM = size < kMostRows ? size : kMostRows;
    for (int i = 0; i < size; i += kM)
      tile_times_floats<Number, kM>(tile, a.x + (m + i) * a.columns, a.columns, y + (m + i) * stride, stride, count);
  });
}

#ifdef TR_BRAINS

inline Floats dot_pairs(Floats sum, const uint8_t* weights, uint32_t pair) {
  return _mm512_dpbf16_ps(sum, (__m512bh)load_codes(weights), (__m512bh)ints(static_cast<int32_t>(pair)));
}

template <int kM>
inline TR_INLINE void tile_times_brains(const uint8_t* tile, const uint32_t* x, long columns, float* y, long stride, int count) {
  Floats even[kM], odd[kM];
  TR_UNROLL for (int r = 0; r < kM; r++) even[r] = odd[r] = zeros();
  for (long pair = 0; pair < columns / 2; pair += 2, tile += 2 * kPairBytes, x += 2 * kM) {
    __builtin_prefetch(tile + kAhead);
    __builtin_prefetch(tile + kAhead + kPairBytes);
    TR_UNROLL for (int r = 0; r < kM; r++) {
      even[r] = dot_pairs(even[r], tile, x[r]);
      odd[r] = dot_pairs(odd[r], tile + kPairBytes, x[kM + r]);
    }
  }
  store_rows<kM>(even, odd, y, stride, count);
}

void rounded(const uint8_t* tile, const Activations& a, long rows, float* y, long stride, int count) {
  in_portions(rows, [&](auto size, long m) {
    tile_times_brains<size>(tile, a.brains.data() + m * (a.columns / 2), a.columns, y + m * stride, stride, count);
  });
}

// Columns of two tiles that stay in the first cache while many rows pass.
constexpr long kPanelPairs = 256;

struct Sums {
  float of[2][2][kRows];  // tile, even and odd
};

// Where the sums of two tiles come from, and where they go.
struct Panel {
  const uint8_t* tile;
  long tile_bytes, pairs;
  bool is_first, is_last;
  Sums* sums;
  float* y;
  long stride;
  int count;  // outputs of the second tile
};

// Two tiles times kM rows, from row kFirst of a portion of kIn.
template <int kM, int kFirst, int kIn>
inline TR_INLINE void add_panel(const Panel& p, const uint32_t* x, long m) {
  Floats even[2][kM], odd[2][kM];
  Sums* sums = p.sums + m;
  if (p.is_first) {
    TR_UNROLL for (int t = 0; t < 2; t++)
      TR_UNROLL for (int r = 0; r < kM; r++) even[t][r] = odd[t][r] = zeros();
  } else {
    TR_UNROLL for (int t = 0; t < 2; t++)
      TR_UNROLL for (int r = 0; r < kM; r++)
        even[t][r] = load_floats(sums[r].of[t][0]), odd[t][r] = load_floats(sums[r].of[t][1]);
  }
  const uint8_t* tile = p.tile;
  const long tile_bytes = p.tile_bytes;
  for (long pair = 0; pair < p.pairs; pair += 2, tile += 2 * kPairBytes, x += 2 * kIn)
    TR_UNROLL for (int r = 0; r < kM; r++)
      TR_UNROLL for (int t = 0; t < 2; t++) {
        even[t][r] = dot_pairs(even[t][r], tile + t * tile_bytes, x[kFirst + r]);
        odd[t][r] = dot_pairs(odd[t][r], tile + t * tile_bytes + kPairBytes, x[kIn + kFirst + r]);
      }
  if (p.is_last) {
    TR_UNROLL for (int r = 0; r < kM; r++) {
      float* y = p.y + (m + r) * p.stride;
      store(y, multiply_add(even[0][r], floats(1), odd[0][r]), kRows);
      store(y + kRows, multiply_add(even[1][r], floats(1), odd[1][r]), p.count);
    }
  } else {
    TR_UNROLL for (int t = 0; t < 2; t++)
      TR_UNROLL for (int r = 0; r < kM; r++)
        store(sums[r].of[t][0], even[t][r], kRows), store(sums[r].of[t][1], odd[t][r], kRows);
  }
}

void two_rounded(const uint8_t* tiles, const Activations& a, long rows, float* y, long stride, int count) {
  static thread_local std::vector<Sums> own;
  own.resize(rows);
  const long num_pairs = a.columns / 2, tile_bytes = num_pairs * kPairBytes;
  for (long start = 0; start < num_pairs; start += kPanelPairs) {
    const long pairs = num_pairs - start < kPanelPairs ? num_pairs - start : kPanelPairs;
    const uint8_t* panel = tiles + start * kPairBytes;
    const bool is_last = start + pairs == num_pairs;
    const Panel p = {panel, tile_bytes, pairs, start == 0, is_last, own.data(), y, stride, count - kRows};
    // A little of what comes next with every portion. After these come two more tiles.
    const uint8_t* next = is_last ? tiles + 2 * tile_bytes : panel + pairs * kPairBytes;
    const uint8_t* const end = next + kPanelPairs * kPairBytes;
    const long bytes = (kPanelPairs * kPairBytes * 8 + rows - 1) / rows;
    in_portions(rows, [&](auto size, long m) {
      const uint32_t* x = a.brains.data() + m * num_pairs + start * size;
      for (const uint8_t* until = next + bytes; next < until && next < end; next += 64)
        __builtin_prefetch(next), __builtin_prefetch(next + tile_bytes);
      add_panel<size == 8 ? 4 : size, 0, size>(p, x, m);
      if constexpr (size == 8) add_panel<4, 4, 8>(p, x, m + 4);
    });
  }
}

#endif

template <class Number>
void row_of_tile(const uint8_t* tile, int row, long columns, float* out) {
  for (long c = 0; c < columns; c++) out[c] = Number::at(tile + c / 2 * kPairBytes, row, c % 2);
}

template <class Number>
void repack(const uint8_t* numbers, long rows, long columns, int num_threads, uint8_t* out) {
  const long num_tiles = (rows + kRows - 1) / kRows, tile_bytes = columns * 2 * kRows;
#pragma omp parallel for schedule(static) num_threads(num_threads)
  for (long tile = 0; tile < num_tiles; tile++) {
    const int count = rows - tile * kRows < kRows ? static_cast<int>(rows - tile * kRows) : kRows;
    if (count < kRows) std::memset(out + tile * tile_bytes, 0, tile_bytes);
    for (long c = 0; c < columns; c += 2)
      for (int row = 0; row < count; row++)
        Number::put(out + tile * tile_bytes + c / 2 * kPairBytes, row, numbers + ((tile * kRows + row) * columns + c) * 2);
  }
}

}  // namespace

const Kernel kernel_F16 = {kF16, exact<Half>, exact<Half>, row_of_tile<Half>, nullptr, Rounding::kNone};
const Kernel kernel_BF16 = {
#ifdef TR_BRAINS
    kBF16, rounded, exact<Brain>, row_of_tile<Brain>, two_rounded, Rounding::kBrains};
#else
    kBF16, exact<Brain>, exact<Brain>, row_of_tile<Brain>, nullptr, Rounding::kNone};
#endif

void repack_floats(int type, const uint8_t* numbers, long rows, long columns, int num_threads, uint8_t* out) {
  (type == 1 ? repack<Half> : repack<Brain>)(numbers, rows, columns, num_threads, out);
}

}  // namespace tramontane
