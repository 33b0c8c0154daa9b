// act(gate) * up of a gated MLP, in float32.
#include <omp.h>

#include "maths.h"

namespace tramontane {
namespace {

constexpr long kPiece = 4096;  // values of a portion: as many are done before another thread is awake

inline float silu(float x) { return x / (1.0f + exponential(-x)); }

inline float gelu(float x) {
  return 0.5f * x * (1.0f + tangent(0.79788456080f * (x + 0.044715f * x * x * x)));
}

template <float (*kAct)(float)>
void gate_all(const float* gate_up, long rows, long inner, int num_threads, float* out) {
  const long pieces = (inner + kPiece - 1) / kPiece;
#pragma omp parallel for num_threads(num_threads) if (rows * inner > kPiece)
  for (long item = 0; item < rows * pieces; item++) {
    const long row = item / pieces, start = item % pieces * kPiece;
    const long count = inner - start < kPiece ? inner - start : kPiece;
    const float *gate = gate_up + row * 2 * inner + start, *up = gate + inner;
    float* to = out + row * inner + start;
#pragma GCC ivdep
    for (long i = 0; i < count; i++) to[i] = kAct(gate[i]) * up[i];
  }
}

}  // namespace
}  // namespace tramontane

using namespace tramontane;

// out[rows, inner] of gate_up[rows, 2 * inner]; SiLU, or GELU by tanh.
extern "C" void tr_gate(const float* gate_up, long rows, long inner, int is_gelu, int num_threads, float* out) {
  (is_gelu ? gate_all<gelu> : gate_all<silu>)(gate_up, rows, inner, num_threads, out);
}
