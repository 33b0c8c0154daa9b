// What blocks (block.cpp) and layers (layers.cpp) call of the others.
#pragma once
#include <cstdint>

#include "attention.h"

// One of several weights that share their input. `type` is GGML's number.
struct TrWeight {
  const uint8_t* tiles;
  long type, rows;
};

// y = x . W^T + bias, of weights that share their input. Without a bias it is null.
struct TrProjection {
  const TrWeight* weights;
  const float* bias;
  long num_weights, columns, rows;
  int exact;
};

extern "C" {
void tr_linear(const TrWeight* weights, int num_weights, const float* x, long num_rows, long columns, int exact,
               int num_threads, float* y);
void tr_gate(const float* gate_up, long rows, long inner, int is_gelu, int num_threads, float* out);
void tr_attention(const tramontane::Attention* call, int num_threads);
void tr_rms_norm(const float* x, const float* residual, const float* weight, float eps, long rows, long size,
                 int num_threads, float* hidden, float* out);
void tr_mlp(const TrProjection* gate_up, const TrProjection* down, int is_gelu, const float* x, long num_rows,
            int num_threads, float* out);
void tr_attention_block(const TrProjection* qkv, const TrProjection* output, tramontane::Attention* call,
                        const float* x, long num_rows, int num_threads, float* out);
}
