// The product with HQQ weights: 64 rows, a 64th of the matrix apart, share a scale and a zero for each column. Both go
// into the activations, once for these rows: y = codes . (scale * x) - zero . (scale * x), and what is left of the
// weights are codes in tiles, which product.cpp multiplies.
//
// A part is such 64 rows: float32 scales and zeros of all columns, then four tiles. Row i of part q is row
// i * (number of parts) + q of the matrix.
#include <algorithm>

#include "activations.h"
#include "kernel.h"
#include "vectors.h"

namespace tramontane {
namespace {

constexpr int kPartRows = 64, kTiles = kPartRows / kRows;
constexpr long kChunk = 64;     // rows of activations at a time: what a core's second cache holds
constexpr long kManyRows = 16;  // of activations, worth unpacking weights into memory

const Kernel& kernel_of(int bits) { return bits == 4 ? kernel_HQQ4 : kernel_HQQ8; }

struct Layout {
  long columns, tile, part;  // bytes of the last two

  Layout(int bits, long columns)
      : columns(columns),
        tile(columns / kGroup * kernel_of(bits).format.superblock()),
        part(columns * 8 + kTiles * tile) {}
};

// Room of one thread.
struct Room {
  Activations scaled;
  std::vector<float> x, zeros, shares, y;  // [kChunk, K], [K], [kChunk], [kChunk, 64]
};

// The products of all rows of `a.pieces` with the zeros.
void multiply_zeros(const Activations& a, const float* zeros, long rows, float* shares) {
  each_portion(rows, [&](long m, long size) {
    for (long r = 0; r < size; r++) {
      const uint8_t* piece = a.pieces.data() + m * (a.columns / kGroup) * kPieceBytes;
      Floats share = tramontane::zeros();
      for (long c = 0; c < a.columns; c += kGroup, piece += size * kPieceBytes) {
        float scale;
        std::memcpy(&scale, piece + size * kGroup + r * sizeof scale, sizeof scale);
        const uint8_t* codes = piece + r * kGroup;
        const Floats first = multiply(signed_bytes(codes), load_floats(zeros + c));
        const Floats both = multiply_add(signed_bytes(codes + 16), load_floats(zeros + c + 16), first);
        share = multiply_add(both, floats(scale), share);
      }
      shares[m + r] = sum_of(share);
    }
  });
}

float dot(const float* a, const float* b, long count) {
  Floats sum = zeros();
  for (long i = 0; i < count; i += 16) sum = multiply_add(load_floats(a + i), load_floats(b + i), sum);
  return sum_of(sum);
}

void make_room(Room& room, long columns) {
  room.scaled.columns = columns;
  room.scaled.pieces.resize(kChunk * columns / kGroup * kPieceBytes);
  room.x.resize(kChunk * columns);
  room.zeros.resize(columns);
  room.shares.resize(kChunk);
  room.y.resize(kChunk * kPartRows);
  room.scaled.x = room.x.data();
}

// One part times `rows` rows of x, at most kChunk, into room.y.
void multiply_part(const Kernel& kernel, const Layout& layout, const uint8_t* part, const float* x, long rows, bool exact,
                   Room& room) {
  const float* scales = reinterpret_cast<const float*>(part);
  const long columns = layout.columns;
  for (long c = 0; c < columns; c++) room.zeros[c] = scales[columns + c] - static_cast<float>(kernel.format.offset);
  for (long m = 0; m < rows; m++) {
    float* scaled = room.x.data() + m * columns;
    for (long c = 0; c < columns; c++) scaled[c] = x[m * columns + c] * scales[c];
    if (exact) room.shares[m] = dot(scaled, room.zeros.data(), columns);
  }
  if (!exact) {
    quantise(rows, room.scaled, 0, columns / kGroup);
    multiply_zeros(room.scaled, room.zeros.data(), rows, room.shares.data());
  }
  const uint8_t* tiles = part + columns * 8;
  const bool in_twos = !exact && kernel.two_rounded && rows >= kManyRows;
  for (int t = 0; t < kTiles; t += in_twos ? 2 : 1) {
    const uint8_t* tile = tiles + t * layout.tile;
    float* y = room.y.data() + t * kRows;
    if (in_twos) kernel.two_rounded(tile, room.scaled, rows, y, kPartRows, 2 * kRows);
    else (exact ? kernel.with_floats : kernel.rounded)(tile, room.scaled, rows, y, kPartRows, kRows);
  }
}

void put_codes(int bits, const uint8_t* codes, long columns, const Layout& layout, uint8_t* tiles) {
  for (int row = 0; row < kPartRows; row++) {
    uint8_t* tile = tiles + row / kRows * layout.tile;
    const int lane = row % kRows;
    for (long c = 0; c < columns; c++) {
      const int vector = c % kGroup / 4, byte = lane * 4 + c % 4;
      if (bits == 8) {
        tile[c / kGroup * 512 + vector * 64 + byte] = codes[row * columns + c];
      } else {
        const int code = (codes[row % 32 * columns + c] >> (row < 32 ? 4 : 0)) & 15;
        tile[c / kGroup * 256 + vector % 4 * 64 + byte] |= code << (vector / 4 * 4);
      }
    }
  }
}

}  // namespace
}  // namespace tramontane

using namespace tramontane;

// Bytes of a [rows, columns] weight; 0 if it is no whole number of parts and groups.
extern "C" long tr_hqq_bytes(int bits, long rows, long columns) {
  return rows % kPartRows || columns % kGroup ? 0 : rows / kPartRows * Layout(bits, columns).part;
}

// From parts whose codes are [64, K], or [32, K] with row i in the high and row i + 32 in the low halves of bytes.
extern "C" void tr_hqq_repack(int bits, const uint8_t* in, long rows, long columns, int num_threads, uint8_t* out) {
  const Layout layout(bits, columns);
  const long in_part = columns * 8 + columns * kPartRows / 8 * bits;
#pragma omp parallel for schedule(static) num_threads(num_threads)
  for (long part = 0; part < rows / kPartRows; part++) {
    const uint8_t* from = in + part * in_part;
    uint8_t* to = out + part * layout.part;
    std::memcpy(to, from, columns * 8);
    std::memset(to + columns * 8, 0, kTiles * layout.tile);
    put_codes(bits, from + columns * 8, columns, layout, to + columns * 8);
  }
}

// out[count, columns] = chosen rows of a weight.
extern "C" void tr_hqq_rows(int bits, const uint8_t* parts, long rows, long columns, const int64_t* indices, long count,
                            float* out) {
  const Layout layout(bits, columns);
  const Kernel& kernel = kernel_of(bits);
  const long num_parts = rows / kPartRows;
  for (long n = 0; n < count; n++) {
    const long row = indices[n] / num_parts;
    const uint8_t* part = parts + indices[n] % num_parts * layout.part;
    const float* scales = reinterpret_cast<const float*>(part);
    float* to = out + n * columns;
    kernel.row_of_tile(part + columns * 8 + row / kRows * layout.tile, static_cast<int>(row % kRows), columns, to);
    const float offset = static_cast<float>(kernel.format.offset);
    for (long c = 0; c < columns; c++) to[c] = (to[c] + offset - scales[columns + c]) * scales[c];
  }
}

// y[M, rows] = x[M, K] . W^T. `exact`: float activations.
extern "C" void tr_hqq_linear(int bits, const uint8_t* parts, long rows, const float* x, long num_inputs, long columns,
                              int exact, int num_threads, float* y) {
  const Layout layout(bits, columns);
  const Kernel& kernel = kernel_of(bits);
  const long num_parts = rows / kPartRows, portion = std::max<long>(1, num_parts / (num_threads * 4));
#pragma omp parallel num_threads(num_threads)
  {
    static thread_local Room room;
    make_room(room, columns);
#pragma omp for schedule(dynamic, portion)
    for (long q = 0; q < num_parts; q++) {
      for (long start = 0; start < num_inputs; start += kChunk) {
        const long count = std::min(kChunk, num_inputs - start);
        multiply_part(kernel, layout, parts + q * layout.part, x + start * columns, count, exact, room);
        for (long m = 0; m < count; m++)
          for (int i = 0; i < kPartRows; i++)
            y[(start + m) * rows + i * num_parts + q] = room.y[m * kPartRows + i] - room.shares[m];
      }
    }
  }
}
