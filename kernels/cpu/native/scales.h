// Scales of the formats that are not GGML's affine ones: product.cpp's `Scales` for them. `values` and `value` turn
// codes into numbers, still with the format's offset.
#pragma once
#include "lookup.h"

namespace tramontane {
namespace {

template <Format F>
struct Scales;

// A float32 scale and zero of each row for a whole superblock: a weight is (code - zero) * scale.
template <Format F>
  requires(F.scaling == kAffine)
struct Scales<F> {
  Floats factor, zero;

  explicit Scales(const uint8_t* superblock)
      : factor(load_floats(reinterpret_cast<const float*>(superblock))),
        zero(load_floats(reinterpret_cast<const float*>(superblock + 64))) {}
  Floats scale(const uint8_t*, int) const { return factor; }
  Floats min(const uint8_t*, int) const { return multiply(zero, factor); }
  static Ints values(Ints codes) { return codes; }
  static int value(int code) { return code; }
};

// One table for all: numbers and their scale alone, in the group's head.
template <Format F>
  requires(F.scaling == kIq4Nl || F.scaling == kMxfp4)
struct Scales<F> {
  static constexpr const uint8_t* kTable = F.scaling == kMxfp4 ? kMxfp4Values : kIq4Values;
  Ints table;

  explicit Scales(const uint8_t*) : table(load_table(kTable)) {}
  Floats scale(const uint8_t* head, int) const {
    if constexpr (F.scaling == kMxfp4) return halves_of_exponents(head);
    else return halves(head);
  }
  static Floats min(const uint8_t*, int) { return zeros(); }
  Ints values(Ints codes) const { return lookup(table, codes); }
  static int value(int code) { return kTable[code]; }
};

// The table comes first in the superblock, then a float32 d of each row; int8 scales in a group's head.
template <Format F>
  requires(F.scaling == kCoded)
struct Scales<F> {
  const uint8_t* place;
  Ints table;
  Floats d;

  explicit Scales(const uint8_t* superblock)
      : place(superblock),
        table(load_table(superblock)),
        d(load_floats(reinterpret_cast<const float*>(superblock + 16))) {}
  Floats scale(const uint8_t* head, int half) const { return multiply(d, signed_bytes(head + 16 * half)); }
  static Floats min(const uint8_t*, int) { return zeros(); }
  Ints values(Ints codes) const { return lookup(table, codes); }
  int value(int code) const { return place[code]; }
};

// None: the activations have them.
template <Format F>
  requires(F.scaling == kNone)
struct Scales<F> {
  explicit Scales(const uint8_t*) {}
  static Floats scale(const uint8_t*, int) { return floats(1); }
  static Floats min(const uint8_t*, int) { return zeros(); }
  static Ints values(Ints codes) { return codes; }
  static int value(int code) { return code; }
};

}  // namespace
}  // namespace tramontane
