// The two blocks of a decoder layer in one call each: products, and what lies between them. Room for that is kept from
// call to call, for fresh pages cost more than a decode's products.
#include <algorithm>
#include <vector>

#include "linear.h"

using tramontane::Attention;

namespace {

constexpr long kPiece = 256;  // rows of an MLP at a time: what is between its products stays in a cache

float* room(int which, long count) {
  static thread_local std::vector<float> rooms[2];
  return tramontane::aligned(rooms[which], count);
}

void project(const TrProjection& p, const float* x, long num_rows, int num_threads, float* y) {
  tr_linear(p.weights, static_cast<int>(p.num_weights), x, num_rows, p.columns, p.exact, num_threads, y);
  if (!p.bias) return;
  for (long row = 0; row < num_rows; row++)
    for (long i = 0; i < p.rows; i++) y[row * p.rows + i] += p.bias[i];
}

}  // namespace

// out [rows, down.rows] = down(act(gate) * up) of x [rows, gate_up.columns].
extern "C" void tr_mlp(const TrProjection* gate_up, const TrProjection* down, int is_gelu, const float* x,
                       long num_rows, int num_threads, float* out) {
  const long piece = std::min(kPiece, num_rows), inner = gate_up->rows / 2;
  float *both = room(0, piece * 2 * inner), *gated = room(1, piece * inner);
  for (long row = 0; row < num_rows; row += piece) {
    const long count = std::min(piece, num_rows - row);
    project(*gate_up, x + row * gate_up->columns, count, num_threads, both);
    tr_gate(both, count, inner, is_gelu, num_threads, gated);
    project(*down, gated, count, num_threads, out + row * down->rows);
  }
}

// out [T, output.rows] of x [T, qkv.columns]; `call` has no query and no output yet.
extern "C" void tr_attention_block(const TrProjection* qkv, const TrProjection* output, Attention* call,
                                   const float* x, long num_rows, int num_threads, float* out) {
  call->query = room(0, num_rows * qkv->rows), call->query_stride = qkv->rows;
  call->out = room(1, num_rows * output->columns);
  project(*qkv, x, num_rows, num_threads, call->query);
  tr_attention(call, num_threads);
  project(*output, call->out, num_rows, num_threads, out);
}
