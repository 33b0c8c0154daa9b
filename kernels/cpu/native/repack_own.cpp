// Rearranges rows of the kinds that are ours (kernels/packed.py), and of GGML's types with a table, into tiles
// (blocks.h, e4m3.h). Losslessly, as repack.cpp does for the others.
#include <cstddef>

#include "blocks.h"
#include "e4m3.h"

namespace tramontane {
namespace {

// Writes one row's block into its place in the tile's superblock, whose bytes are zero before the first row.
using Put = void (*)(const uint8_t* block, int row, uint8_t* superblock);

void put_nibble(uint8_t* codes, int row, int column, int code) {
  const int vector = column / 4;
  codes[vector % 4 * 64 + row * 4 + column % 4] |= code << (vector / 4 * 4);
}

// 32 columns in 16 bytes: the first half in the low halves.
void put_nibbles(const uint8_t* nibbles, int row, uint8_t* codes) {
  for (int i = 0; i < 16; i++) {
    put_nibble(codes, row, i, nibbles[i] & 15);
    put_nibble(codes, row, i + 16, nibbles[i] >> 4);
  }
}

void put_iq4_nl(const uint8_t* b, int row, uint8_t* out) {
  std::memcpy(out + 2 * row, b, 2);
  put_nibbles(b + 2, row, out + 32);
}

void put_mxfp4(const uint8_t* b, int row, uint8_t* out) {
  out[row] = b[0];
  put_nibbles(b + 1, row, out + 16);
}

// Half float32 d, table and int8 scales of kSub columns each.
template <Format F>
void put_coded_block(const uint8_t* table, float d, const int8_t* scales, const uint8_t* nibbles, int row, uint8_t* out) {
  std::memcpy(out, table, 16);
  std::memcpy(out + 16 + 4 * row, &d, 4);
  constexpr int kParts = kGroup / F.sub;
  for (int group = 0; group < F.block / kGroup; group++) {
    uint8_t* head = out + F.head + group * (F.group_head + F.codes);
    for (int part = 0; part < kParts; part++) head[part * 16 + row] = static_cast<uint8_t>(scales[group * kParts + part]);
    put_nibbles(nibbles + group * 16, row, head + F.group_head);
  }
}

// Our own: the table's numbers are signed there.
template <Format F>
void put_coded(const uint8_t* b, int row, uint8_t* out) {
  uint8_t table[16];
  for (int i = 0; i < 16; i++) table[i] = static_cast<uint8_t>(b[i] + F.offset);
  float d;
  std::memcpy(&d, b + 16, 4);
  constexpr int kScales = F.block / F.sub;
  put_coded_block<F>(table, d, reinterpret_cast<const int8_t*>(b + 20), b + 20 + kScales, row, out);
}

void put_iq4_xs(const uint8_t* b, int row, uint8_t* out) {
  uint16_t d, high;
  std::memcpy(&d, b, 2);
  std::memcpy(&high, b + 2, 2);
  int8_t scales[8];
  for (int i = 0; i < 8; i++) {
    const int low = (b[4 + i / 2] >> (i % 2 * 4)) & 15;
    scales[i] = static_cast<int8_t>((low | ((high >> (2 * i)) & 3) << 4) - 32);
  }
  put_coded_block<kCODED_32>(kIq4Values, half_to_float(d), scales, b + 8, row, out);
}

template <Format F>
void put_affine(const uint8_t* b, int row, uint8_t* out) {
  std::memcpy(out + 4 * row, b, 4);
  std::memcpy(out + 64 + 4 * row, b + 4, 4);
  for (int c = 0; c < F.block; c++) {
    uint8_t* codes = out + F.head + c / kGroup * F.codes;
    const int column = c % kGroup;
    if (F.codes == 512) codes[column / 4 * 64 + row * 4 + column % 4] = b[8 + c];
    else put_nibble(codes, row, column, (b[8 + c % (F.block / 2)] >> (c / (F.block / 2) * 4)) & 15);
  }
}

// E4M3 numbers lie in quads of columns.
template <Format F>
void put_fp8(const uint8_t* b, int row, uint8_t* out) {
  std::memcpy(out + 4 * row, b, 4);
  for (int c = 0; c < F.block; c++) 
    out[F.head + c / 4 * kQuadBytes + place_in_quad(row, c % 4)] = b[4 + c];
}

template <Format F>
void repack(Put put, int block_bytes, const uint8_t* blocks, long rows, long columns, int num_threads, uint8_t* out) {
  const long num_blocks = columns / F.block, num_tiles = (rows + kRows - 1) / kRows;
  const long tile_bytes = num_blocks * F.superblock();
#pragma omp parallel for schedule(static) num_threads(num_threads)
  for (long tile = 0; tile < num_tiles; tile++) {
    std::memset(out + tile * tile_bytes, 0, tile_bytes);
    for (int row = 0; row < kRows && tile * kRows + row < rows; row++) {
      const uint8_t* in = blocks + (tile * kRows + row) * num_blocks * block_bytes;
      for (long b = 0; b < num_blocks; b++) put(in + b * block_bytes, row, out + tile * tile_bytes + b * F.superblock());
    }
  }
}

}  // namespace

void repack_own(int type, const uint8_t* blocks, long rows, long columns, int num_threads, uint8_t* out) {
  switch (type) {
#define CASE(number, format, put, bytes) \
  case number:                           \
    return repack<format>(put, bytes, blocks, rows, columns, num_threads, out);
    CASE(20, kIQ4_NL, put_iq4_nl, 18)
    CASE(23, kCODED_32, put_iq4_xs, 136)
    CASE(39, kMXFP4, put_mxfp4, 17)
    CASE(1032, kAFFINE4_32, put_affine<kAFFINE4_32>, 24)
    CASE(1064, kAFFINE4_64, put_affine<kAFFINE4_64>, 40)
    CASE(1128, kAFFINE4_128, put_affine<kAFFINE4_128>, 72)
    CASE(2032, kAFFINE8_32, put_affine<kAFFINE8_32>, 40)
    CASE(2064, kAFFINE8_64, put_affine<kAFFINE8_64>, 72)
    CASE(2128, kAFFINE8_128, put_affine<kAFFINE8_128>, 136)
    CASE(3032, kFP8_32, put_fp8<kFP8_32>, 36)
    CASE(3064, kFP8_64, put_fp8<kFP8_64>, 68)
    CASE(3128, kFP8_128, put_fp8<kFP8_128>, 132)
    CASE(5016, kCODED_16, put_coded<kCODED_16>, 164)
    CASE(5032, kCODED_32, put_coded<kCODED_32>, 156)
#undef CASE
  }
}

}  // namespace tramontane
