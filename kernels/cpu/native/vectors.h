// The sixteen lanes of a tile as machine vectors: one file for each kind of machine, all with the same operations,
// chosen by what the compiler may use. Integers are exact and come out the same everywhere; floats are rounded once
// in multiply_add wherever the machine can.
//
//   Ints                      16 x int32, or the 64 bytes of a vector of codes: four neighbouring columns a lane
//   Floats                    16 x float32
//   ints, floats, zeros       the same value in all lanes
//   load_codes, store_codes   64 bytes
//   load_floats               16 of them
//   field<shift, mask>        (byte >> shift) & mask of each byte; `shift` and `mask` leave no bits of a neighbour
//   merge<shift>              low | high << shift of each byte
//   dot<most>                 each lane: sum += four codes . four signed bytes but -128, exactly; `most`: no code is above
//   times<factor>             by a power of two, or by zero
//   column<i>                 the code of column i in each lane, as floats
//   halves, bytes, signed_bytes, low_nibbles, high_nibbles   16 of them as floats
//   multiply, subtract, multiply_add (a * b + sum), to_floats
//   sum_of                    of all lanes: the upper half is added to the lower, and so on
//   sums_of                   sum_of each of 16
//   transpose                 lane i of vector j becomes lane j of vector i
//   store                     the first `count` lanes
//   store_halves              all lanes, each to the nearest float16, or the even one of two
//   kMostRows                 of activations whose sums fit the registers, a power of two
//   kPath                     what these instructions are called
#pragma once

#if defined(TR_PORTABLE)
#include "vectors_plain.h"
#elif defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include "vectors_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "vectors_avx2.h"
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include "vectors_neon.h"
#else
#include "vectors_plain.h"
#endif

#ifndef TR_AVX512
namespace tramontane {
inline Floats sums_of(const Floats (&in)[16]) {
  float sums[16];
  for (int i = 0; i < 16; i++) sums[i] = sum_of(in[i]);
  return load_floats(sums);
}
inline void transpose(Floats (&block)[16]) {
  float rows[16][16], columns[16][16];
  for (int i = 0; i < 16; i++) store(rows[i], block[i], 16);
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 16; j++) columns[j][i] = rows[i][j];
  for (int i = 0; i < 16; i++) block[i] = load_floats(columns[i]);
}
}  // namespace tramontane
#endif
