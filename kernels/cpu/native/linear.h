// What a block (block.cpp) calls of the others.
#pragma once
#include <cstdint>

#include "attention.h"

// One of several weights that share their input. `type` is GGML's number.
struct TrWeight {
  const uint8_t* tiles;
  long type, rows;
};

extern "C" {
void tr_linear(const TrWeight* weights, int num_weights, const float* x, long num_rows, long columns, int exact,
               int num_threads, float* y);
void tr_gate(const float* gate_up, long rows, long inner, int is_gelu, int num_threads, float* out);
void tr_attention(const tramontane::Attention* call, int num_threads);
}
