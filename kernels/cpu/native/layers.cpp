// The layers of a decoder in one call: what lies between their blocks costs a decode as much as a tenth of its products.
#include <algorithm>
#include <cstring>
#include <vector>

#include "linear.h"

using tramontane::Attention;

// Of one layer. Head norms may be missing.
struct TrLayer {
  const TrProjection *qkv, *output, *gate_up, *down;
  const float *input_norm, *post_norm, *query_norm, *key_norm;
  void *keys, *values;
  long rotation;  // of the call's; -1: none
  long window;
  float eps, scale, softcap;
  int is_gelu;
};

// Cosines and sines [T, half].
struct TrRotation {
  const float *cos, *sin;
  long half;
};

namespace {

void enter(const TrLayer& layer, const TrRotation* rotations, Attention& call) {
  call.keys = layer.keys, call.values = layer.values;
  call.query_norm = layer.query_norm, call.key_norm = layer.key_norm;
  const TrRotation turned = layer.rotation < 0 ? TrRotation{} : rotations[layer.rotation];
  call.cos = turned.cos, call.sin = turned.sin, call.half = turned.half;
  call.window = layer.window, call.eps = layer.eps, call.scale = layer.scale, call.softcap = layer.softcap;
}

}  // namespace

// `x` [T, size] becomes what the last layer adds to `total` [T, size], the sum of all before it. `call` has what is
// the same in all layers.
extern "C" void tr_layers(const TrLayer* layers, long num_layers, const TrRotation* rotations, Attention* call,
                          long num_rows, long size, int num_threads, float* x, float* total) {
  static thread_local std::vector<float> memory;
  float* normed = tramontane::aligned(memory, num_rows * size);
  for (long i = 0; i < num_layers; i++) {
    const TrLayer& layer = layers[i];
    enter(layer, rotations, *call);
    if (i == 0) std::memcpy(total, x, num_rows * size * sizeof(float));
    tr_rms_norm(x, i ? total : nullptr, layer.input_norm, layer.eps, num_rows, size, num_threads, total, normed);
    tr_attention_block(layer.qkv, layer.output, call, normed, num_rows, num_threads, x);
    tr_rms_norm(x, total, layer.post_norm, layer.eps, num_rows, size, num_threads, total, normed);
    tr_mlp(layer.gate_up, layer.down, layer.is_gelu, normed, num_rows, num_threads, x);
  }
}
