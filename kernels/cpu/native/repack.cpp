// Rearranges GGML's blocks into tiles (blocks.h), losslessly: every code and every scale is kept as it is.
#include <cstddef>

#include "blocks.h"

namespace tramontane {

// The formats of repack_own.cpp.
void repack_own(int type, const uint8_t* blocks, long rows, long columns, int num_threads, uint8_t* out);
// The formats of product_float.cpp.
void repack_floats(int type, const uint8_t* numbers, long rows, long columns, int num_threads, uint8_t* out);

namespace {

// One row's superblock, taken apart: a code per column, and the scales as the tile's heads hold them.
struct Columns {
  uint8_t codes[256];
  uint16_t d, dmin;                     // f16, of the superblock or of the only group
  uint8_t scales[16], mins[16];         // of each kSub columns, where the format has them
};

using Unpack = void (*)(const uint8_t* block, Columns& out);

uint16_t half_at(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, 2);
  return value;
}

void unpack_nibbles(const uint8_t* nibbles, uint8_t* codes) {
  for (int i = 0; i < 16; i++) codes[i] = nibbles[i] & 15, codes[i + 16] = nibbles[i] >> 4;
}

void add_fifth_bits(const uint8_t* bits, uint8_t* codes) {
  for (int i = 0; i < 32; i++) codes[i] |= ((bits[i / 8] >> (i % 8)) & 1) << 4;
}

void unpack_q4_0(const uint8_t* b, Columns& out) {
  out.d = half_at(b);
  unpack_nibbles(b + 2, out.codes);
}

void unpack_q4_1(const uint8_t* b, Columns& out) {
  out.d = half_at(b), out.dmin = half_at(b + 2);
  unpack_nibbles(b + 4, out.codes);
}

void unpack_q5_0(const uint8_t* b, Columns& out) {
  out.d = half_at(b);
  unpack_nibbles(b + 6, out.codes);
  add_fifth_bits(b + 2, out.codes);
}

void unpack_q5_1(const uint8_t* b, Columns& out) {
  out.d = half_at(b), out.dmin = half_at(b + 2);
  unpack_nibbles(b + 8, out.codes);
  add_fifth_bits(b + 4, out.codes);
}

void unpack_q8_0(const uint8_t* b, Columns& out) {
  out.d = half_at(b);
  for (int i = 0; i < 32; i++) out.codes[i] = static_cast<uint8_t>(b[2 + i] + 128);
}

// Two-bit codes of Q2_K and Q3_K: four runs of 32 columns share 32 bytes.
void unpack_pairs(const uint8_t* pairs, uint8_t* codes) {
  for (int c = 0; c < 256; c++) codes[c] = (pairs[c / 128 * 32 + c % 32] >> (c % 128 / 32 * 2)) & 3;
}

void unpack_q2_k(const uint8_t* b, Columns& out) {
  for (int i = 0; i < 16; i++) out.scales[i] = b[i] & 15, out.mins[i] = b[i] >> 4;
  unpack_pairs(b + 16, out.codes);
  out.d = half_at(b + 80), out.dmin = half_at(b + 82);
}

void unpack_q3_k(const uint8_t* b, Columns& out) {
  unpack_pairs(b + 32, out.codes);
  for (int c = 0; c < 256; c++) out.codes[c] |= ((b[c % 32] >> (c / 32)) & 1) << 2;
  const uint8_t* packed = b + 96;
  for (int i = 0; i < 16; i++) {
    const int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4;
    const int high = (packed[8 + i % 4] >> (i / 4 * 2)) & 3;
    out.scales[i] = static_cast<uint8_t>((low | high << 4) - 32);
  }
  out.d = half_at(b + 108);
}

// The six-bit scales and mins of Q4_K and Q5_K.
void unpack_six_bits(const uint8_t* q, Columns& out) {
  for (int i = 0; i < 8; i++) {
    out.scales[i] = i < 4 ? q[i] & 63 : (q[i + 4] & 15) | (q[i - 4] >> 6) << 4;
    out.mins[i] = i < 4 ? q[i + 4] & 63 : (q[i + 4] >> 4) | (q[i] >> 6) << 4;
  }
}

void unpack_q4_k(const uint8_t* b, Columns& out) {
  out.d = half_at(b), out.dmin = half_at(b + 2);
  unpack_six_bits(b + 4, out);
  for (int c = 0; c < 256; c++) out.codes[c] = (b[16 + c / 64 * 32 + c % 32] >> (c % 64 / 32 * 4)) & 15;
}

void unpack_q5_k(const uint8_t* b, Columns& out) {
  out.d = half_at(b), out.dmin = half_at(b + 2);
  unpack_six_bits(b + 4, out);
  for (int c = 0; c < 256; c++) {
    const int low = (b[48 + c / 64 * 32 + c % 32] >> (c % 64 / 32 * 4)) & 15;
    out.codes[c] = static_cast<uint8_t>(low | ((b[16 + c % 32] >> (c / 32)) & 1) << 4);
  }
}

void unpack_q6_k(const uint8_t* b, Columns& out) {
  for (int c = 0; c < 256; c++) {
    const int half = c / 128, place = c % 128;
    const int low = (b[half * 64 + place % 64] >> (place / 64 * 4)) & 15;
    const int high = (b[128 + half * 32 + place % 32] >> (place / 32 * 2)) & 3;
    out.codes[c] = static_cast<uint8_t>(low | high << 4);
  }
  std::memcpy(out.scales, b + 192, 16);
  out.d = half_at(b + 208);
}

// Puts the code of column c of a group (its vector c / 4) into the planes of bits that blocks.h names.
void put_code(int bits, uint8_t* codes, int row, int c, uint8_t code) {
  const int vector = c / 4, byte = row * 4 + c % 4;
  switch (bits) {
    case 8:
      codes[vector * 64 + byte] = code;
      return;
    case 2:
    case 3:
      codes[vector % 2 * 64 + byte] |= (code & 3) << (vector / 2 * 2);
      if (bits == 3) codes[128 + byte] |= (code >> 2) << vector;
      return;
    default:
      codes[vector % 4 * 64 + byte] |= (code & 15) << (vector / 4 * 4);
      if (bits == 5) codes[256 + byte] |= (code >> 4) << vector;
      if (bits == 6) codes[256 + vector % 2 * 64 + byte] |= (code >> 4) << (vector / 2 * 2);
  }
}

void put_half(uint8_t* place, int row, uint16_t value) { std::memcpy(place + 2 * row, &value, 2); }

template <Format F>
void put_group_head(uint8_t* head, int row, int group, const Columns& in) {
  if constexpr (F.block == 32) {
    put_half(head, row, in.d);
    if (F.has_min) put_half(head + 32, row, in.dmin);
  } else if constexpr (F.sub == 32) {
    head[row] = in.scales[group], head[16 + row] = in.mins[group];
  } else if constexpr (F.has_min) {  // Q2_K: both fit a byte
    for (int half = 0; half < 2; half++)
      head[half * 16 + row] = in.scales[group * 2 + half] | in.mins[group * 2 + half] << 4;
  } else {
    for (int half = 0; half < 2; half++) head[half * 16 + row] = in.scales[group * 2 + half];
  }
}

template <Format F>
void put_superblock(int bits, uint8_t* out, int row, const Columns& in) {
  if constexpr (F.block == 256) {
    put_half(out, row, in.d);
    if (F.has_min) put_half(out + 32, row, in.dmin);
  }
  for (int group = 0; group < F.block / kGroup; group++) {
    uint8_t* head = out + F.head + group * (F.group_head + F.codes);
    put_group_head<F>(head, row, group, in);
    for (int c = 0; c < kGroup; c++)
      put_code(bits, head + F.group_head, row, c, in.codes[group * kGroup + c]);
  }
}

template <Format F>
void repack(Unpack unpack, int bits, int block_bytes, const uint8_t* blocks, long rows, long columns, int num_threads, uint8_t* out) {
  const long num_blocks = columns / F.block, num_tiles = (rows + kRows - 1) / kRows;
  const long tile_bytes = num_blocks * F.superblock();
#pragma omp parallel for schedule(static) num_threads(num_threads)
  for (long tile = 0; tile < num_tiles; tile++) {
    std::memset(out + tile * tile_bytes, 0, tile_bytes);
    for (int row = 0; row < kRows && tile * kRows + row < rows; row++) {
      const uint8_t* in = blocks + (tile * kRows + row) * num_blocks * block_bytes;
      for (long b = 0; b < num_blocks; b++) {
        Columns columns_of_block;
        unpack(in + b * block_bytes, columns_of_block);
        put_superblock<F>(bits, out + tile * tile_bytes + b * F.superblock(), row, columns_of_block);
      }
    }
  }
}

}  // namespace
}  // namespace tramontane

using namespace tramontane;

// Rows of blocks into tiles. `type` is one that tr_tiles_bytes knows.
extern "C" void tr_repack(int type, const uint8_t* blocks, long rows, long columns, int num_threads, uint8_t* out) {
  switch (type) {
    case 1:
    case 30:
      return repack_floats(type, blocks, rows, columns, num_threads, out);
#define CASE(number, format, unpack, bits, bytes) \
  case number:                                    \
    return repack<format>(unpack, bits, bytes, blocks, rows, columns, num_threads, out);
    CASE(2, kQ4_0, unpack_q4_0, 4, 18)
    CASE(3, kQ4_1, unpack_q4_1, 4, 20)
    CASE(6, kQ5_0, unpack_q5_0, 5, 22)
    CASE(7, kQ5_1, unpack_q5_1, 5, 24)
    CASE(8, kQ8_0, unpack_q8_0, 8, 34)
    CASE(10, kQ2_K, unpack_q2_k, 2, 84)
    CASE(11, kQ3_K, unpack_q3_k, 3, 110)
    CASE(12, kQ4_K, unpack_q4_k, 4, 144)
    CASE(13, kQ5_K, unpack_q5_k, 5, 176)
    CASE(14, kQ6_K, unpack_q6_k, 6, 210)
#undef CASE
    default:
      return repack_own(type, blocks, rows, columns, num_threads, out);
  }
}
