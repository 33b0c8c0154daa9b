// How each format's weights lie in memory for the matrix product, and how they are read.
//
// A tile has 16 rows. Its memory is a run of superblocks of kBlock columns; a superblock is a head (scales of the
// whole) and kBlock / 32 groups of 32 columns, each a group head (scales) and codes. In codes, lane r of a vector
// is row r, and its four bytes are four neighbouring columns: what a dot product of bytes takes.
#pragma once
#include <cstdint>
#include <cstring>

namespace tramontane {

constexpr int kRows = 16;   // of a tile
constexpr int kGroup = 32;  // columns that share one scale of the activations

inline float half_to_float(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, magnitude = h & 0x7fffu;
  uint32_t bits;
  if (magnitude >= 0x7c00u) {
    bits = 0x7f800000u | (magnitude << 13);
  } else if (magnitude >= 0x0400u) {
    bits = (magnitude << 13) + 0x38000000u;
  } else {
    const float value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // 2^-24
    std::memcpy(&bits, &value, 4);
  }
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// The nearest, or the even one of two.
inline uint16_t float_to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    magnitude = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {
    magnitude = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {
    magnitude = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
  } else {
    // Beside 0.5 a float has just the bits that a subnormal has.
    std::memcpy(&value, &magnitude, 4);
    value += 0.5f;
    std::memcpy(&magnitude, &value, 4);
    magnitude -= 0x3f000000u;
  }
  return static_cast<uint16_t>(sign | magnitude);
}

// The formats of the product. Names are the widths of their codes; several of GGML's types may share one.
//   kSub     columns that share a weight scale, 32 or 16
//   kOffset  what is subtracted from a code; codes are unsigned
//   kHasMin  whether a min is subtracted from scale * code
//   kHead, kGroupHead, kCodes   bytes of a superblock's head, a group's head, a group's codes
//   scaling  whose scales these are: GGML's, in float16 and small integers, or those of scales.h
enum Scaling { kGgml, kAffine, kIq4Nl, kMxfp4, kCoded, kE4m3, kNone };
struct Format {
  int block, sub, offset, has_min, head, group_head, codes;
  Scaling scaling = kGgml;
  constexpr int superblock() const { return head + block / kGroup * (group_head + codes); }
};

//                            block sub offset min head group codes
constexpr Format kQ4_0 = {32, 32, 8, 0, 0, 32, 256};     // f16 scale
constexpr Format kQ4_1 = {32, 32, 0, 1, 0, 64, 256};     // f16 scale, f16 min
constexpr Format kQ5_0 = {32, 32, 16, 0, 0, 32, 320};    // f16 scale
constexpr Format kQ5_1 = {32, 32, 0, 1, 0, 64, 320};     // f16 scale, f16 min
constexpr Format kQ8_0 = {32, 32, 128, 0, 0, 32, 512};   // f16 scale
constexpr Format kQ2_K = {256, 16, 0, 1, 64, 32, 128};   // f16 d, dmin; nibbles: scale, min of each half
constexpr Format kQ3_K = {256, 16, 4, 0, 32, 32, 192};   // f16 d; int8 scales of each half
constexpr Format kQ4_K = {256, 32, 0, 1, 64, 32, 256};   // f16 d, dmin; u8 scale, u8 min
constexpr Format kQ5_K = {256, 32, 0, 1, 64, 32, 320};   // f16 d, dmin; u8 scale, u8 min
constexpr Format kQ6_K = {256, 16, 32, 0, 32, 32, 384};  // f16 d; int8 scales of each half

// Codes that a table turns into numbers.
constexpr Format kIQ4_NL = {32, 32, 128, 0, 0, 32, 256, kIq4Nl};    // f16 scale
constexpr Format kMXFP4 = {32, 32, 16, 0, 0, 16, 256, kMxfp4};      // E8M0 scale
constexpr Format kCODED_16 = {256, 16, 128, 0, 80, 32, 256, kCoded};  // table, f32 d; int8 scales of each half
constexpr Format kCODED_32 = {256, 32, 128, 0, 80, 16, 256, kCoded};  // table, f32 d; int8 scale

// The kinds that are ours (kernels/packed.py): f32 scale, f32 zero.
constexpr Format kAFFINE4_32 = {32, 32, 0, 1, 128, 0, 256, kAffine};
constexpr Format kAFFINE4_64 = {64, 32, 0, 1, 128, 0, 256, kAffine};
constexpr Format kAFFINE4_128 = {128, 32, 0, 1, 128, 0, 256, kAffine};
constexpr Format kAFFINE8_32 = {32, 32, 0, 1, 128, 0, 512, kAffine};
constexpr Format kAFFINE8_64 = {64, 32, 0, 1, 128, 0, 512, kAffine};
constexpr Format kAFFINE8_128 = {128, 32, 0, 1, 128, 0, 512, kAffine};

// Codes alone, for hqq.cpp.
constexpr Format kHQQ4 = {32, 32, 8, 0, 0, 0, 256, kNone};
constexpr Format kHQQ8 = {32, 32, 128, 0, 0, 0, 512, kNone};

// f32 scale, then E4M3 numbers (e4m3.h). (`inline`: fp8.cpp makes their kernels, product.cpp none.)
inline constexpr Format kFP8_32 = {32, 32, 0, 0, 64, 0, 512, kE4m3};
inline constexpr Format kFP8_64 = {64, 32, 0, 0, 64, 0, 512, kE4m3};
inline constexpr Format kFP8_128 = {128, 32, 0, 0, 64, 0, 512, kE4m3};

// IQ4_NL's numbers plus 128, and MXFP4's, doubled, plus 16.
constexpr uint8_t kIq4Values[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
constexpr uint8_t kMxfp4Values[16] = {16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4};

// Floats, whose tiles are a run of pairs of columns. (`inline`: product_float.cpp makes their kernels, product.cpp none.)
inline constexpr Format kF16 = {32, 32, 0, 0, 0, 0, 1024};
inline constexpr Format kBF16 = {32, 32, 0, 0, 0, 0, 1024};

// Every format, by GGML's number of the type or ours of the kind. A build may name fewer.
#ifndef TR_FORMATS
#define TR_FORMATS(DO)                                                                                            \
  DO(2, Q4_0) DO(3, Q4_1) DO(6, Q5_0) DO(7, Q5_1) DO(8, Q8_0) DO(10, Q2_K) DO(11, Q3_K) DO(12, Q4_K)               \
  DO(13, Q5_K) DO(14, Q6_K) DO(20, IQ4_NL) DO(23, CODED_32) DO(39, MXFP4) DO(1032, AFFINE4_32)                     \
  DO(1064, AFFINE4_64) DO(1128, AFFINE4_128) DO(2032, AFFINE8_32) DO(2064, AFFINE8_64) DO(2128, AFFINE8_128)       \
  DO(3032, FP8_32) DO(3064, FP8_64) DO(3128, FP8_128) DO(5016, CODED_16) DO(5032, CODED_32) DO(1, F16) DO(30, BF16)
#endif

}  // namespace tramontane
